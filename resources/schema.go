package resources

import (
	"encoding/json"
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"tidemark/mutlog"
)

// dialect is the only $schema that is understood.
const dialect = "https://json-schema.org/draft/2020-12/schema"

// base is the address of a schema that has no $id. Nothing is loaded from it.
const base = "tidemark://resources/"

// compile makes a schema of a document for the kind of this name. A schema
// stands alone: what it refers to must be in it.
func compile(name string, d *document) (mutlog.Schema, Problems) {
	c := &compiler{document: d}
	if problems := c.refusals(); len(problems) > 0 {
		return nil, problems
	}
	compiled, err := c.compile(name)
	if err == nil {
		err = endless(compiled)
	}
	if err != nil {
		c.explain(err)
	}
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	s := &schema{idle: newIdle(), compile: func() *counted {
		again, err := (&compiler{document: d}).compile(name)
		if err != nil {
			panic(err) // it has compiled before
		}
		return newCounted(again)
	}}
	s.put(newCounted(compiled))
	return s, nil
}

// compile has the library compile the document.
func (c *compiler) compile(name string) (*jsonschema.Schema, error) {
	engine := jsonschema.NewCompiler()
	engine.DefaultDraft(jsonschema.Draft2020)
	engine.UseLoader(c)
	engine.UseRegexpEngine(c.regexp)
	if err := engine.AddResource(base+name, c.value); err != nil {
		return nil, err
	}
	return engine.Compile(base + name)
}

// endless tells of a schema that refers to itself before it looks at any member:
// nothing would ever fit it.
func endless(s *jsonschema.Schema) error {
	var invalid *jsonschema.ValidationError
	if errors.As(s.Validate(map[string]any{}), &invalid) && isCycle(invalid) {
		return errors.New("it refers to itself without end")
	}
	return nil
}

func isCycle(e *jsonschema.ValidationError) bool {
	_, is := e.ErrorKind.(*kind.RefCycle)
	return is || slices.ContainsFunc(e.Causes, isCycle)
}

// compiler finds where the problems of a schema are.
type compiler struct {
	*document
	problems Problems
}

func (c *compiler) refuse(pointer, format string, args ...any) {
	p := c.problem(pointer, format, args...)
	if !slices.Contains(c.problems, p) {
		c.problems = append(c.problems, p)
	}
}

// refusals finds what the compiler of schemas would find one at a time, or not.
func (c *compiler) refusals() Problems {
	c.walk("", c.value, func(pointer, name string, value any) {
		text, isText := value.(string)
		if number, ok := value.(json.Number); ok && isHuge(string(number)) {
			c.refuse(pointer, "a number of that size is not supported")
		}
		if isText && name == "$schema" && text != dialect && text != dialect+"#" {
			c.refuse(pointer, "$schema must be %s", dialect)
		}
		if !isText || !refers(name) {
			return
		}
		if at, local := strings.CutPrefix(text, "#"); local && (at == "" || at[0] == '/') && !c.embeds() {
			if at, err := url.PathUnescape(at); err == nil && c.at[at] == (place{}) {
				c.refuse(pointer, "%s %q refers to nothing in the schema", name, text)
			}
		}
	})
	return c.problems
}

func refers(name string) bool { return name == "$ref" || name == "$dynamicRef" }

// embeds tells whether the schema holds others with an address of their own.
func (c *compiler) embeds() bool {
	found := false
	c.walk("", c.value, func(pointer, name string, _ any) { found = found || name == "$id" && pointer != "/$id" })
	return found
}

// walk calls fn with every value in the schema that is no data.
func (c *compiler) walk(pointer string, value any, fn func(pointer, name string, value any)) {
	switch v := value.(type) {
	case map[string]any:
		for name, value := range v {
			fn(member(pointer, name), name, value)
			if !slices.Contains([]string{"const", "enum", "default", "examples"}, name) {
				c.walk(member(pointer, name), value, fn)
			}
		}
	case []any:
		for i, value := range v {
			fn(pointer+"/"+strconv.Itoa(i), "", value)
			c.walk(pointer+"/"+strconv.Itoa(i), value, fn)
		}
	}
}

// Load refuses to load what a schema refers to (jsonschema.URLLoader).
func (c *compiler) Load(address string) (any, error) {
	c.walk("", c.value, func(pointer, name string, value any) {
		text, _ := value.(string)
		to, _, _ := strings.Cut(text, "#")
		if refers(name) && to != "" && strings.HasSuffix(address, strings.TrimPrefix(to, "./")) {
			c.refuse(pointer, "%s %q refers to another file or address, of which nothing is loaded", name, text)
		}
	})
	return true, nil // so that the others are found, too
}

// regexp compiles a regular expression; one that is wrong matches everything, so
// that the others are found, too.
func (c *compiler) regexp(text string) (jsonschema.Regexp, error) {
	compiled, err := regexp.Compile(text)
	if err == nil {
		return compiled, nil
	}
	c.walk("", c.value, func(pointer, name string, value any) {
		if name == "pattern" && value == text || name == text {
			c.refuse(pointer, "%v", err)
		}
	})
	return regexp.MustCompile(""), nil
}

// explain adds what is wrong with a schema that does not compile.
func (c *compiler) explain(err error) {
	var invalid *jsonschema.SchemaValidationError
	var against *jsonschema.ValidationError
	if errors.As(err, &invalid) && errors.As(invalid.Err, &against) {
		for _, v := range violations(against) {
			c.refuse(v.Path, "the schema is wrong here: %s", v.Reason)
		}
		return
	}
	if len(c.problems) == 0 { // what was refused already may be the cause
		c.refuse("", "the schema is wrong: %v", strings.ReplaceAll(err.Error(), base, ""))
	}
}
