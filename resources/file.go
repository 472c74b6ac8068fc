package resources

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"tidemark/mutlog"
)

// Bounds of what a resource file may say.
const (
	maxKeyFields = 8
	maxLimit     = 1 << 30 // bytes of data
)

// Read reads the resource file at path and the schema files that it names. What
// is wrong in them is an error of type Problems, which tells all of it; that the
// file itself cannot be read is another.
func Read(path string) (mutlog.Kinds, error) {
	return guarded(path, func() (mutlog.Kinds, error) {
		d, err := readDocument(path)
		if err != nil {
			return nil, err
		}
		r := &reader{document: d, kinds: mutlog.Kinds{}}
		r.file()
		if err := r.problems.sorted(path); err != nil {
			return nil, err
		}
		return r.kinds, nil
	})
}

// guarded makes an error of a panic: a file that a library cannot bear must not
// end a server that reads it again.
func guarded(path string, read func() (mutlog.Kinds, error)) (kinds mutlog.Kinds, err error) {
	defer func() {
		if r := recover(); r != nil {
			kinds, err = nil, fmt.Errorf("%s cannot be read: %v", path, r)
		}
	}()
	return read()
}

// reader makes kinds of a document.
type reader struct {
	*document
	kinds    mutlog.Kinds
	problems Problems
}

func (r *reader) refuse(pointer, format string, args ...any) {
	r.problems = append(r.problems, r.problem(pointer, format, args...))
}

// file reads the whole.
func (r *reader) file() {
	top, ok := r.object("", r.value, "resources")
	if !ok {
		return
	}
	all, ok := top["resources"].(map[string]any)
	if !ok || len(all) == 0 {
		r.refuse("/resources", "resources must list at least one resource")
		return
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		pointer := member("/resources", name)
		if !mutlog.ValidResource(name) {
			r.refuse(pointer, "%q is no name of a resource: capital letters, digits and _, beginning with a letter, at most %d", name, mutlog.MaxResourceBytes)
		}
		r.kinds[name] = r.kind(pointer, name, all[name])
	}
}

// object returns the members of an object, of which only those may be there
// that are named.
func (r *reader) object(pointer string, value any, names ...string) (map[string]any, bool) {
	object, ok := value.(map[string]any)
	if !ok {
		r.refuse(pointer, "here must be a mapping with some of: %s", strings.Join(names, ", "))
		return nil, false
	}
	for name := range object {
		if !slices.Contains(names, name) {
			r.refuse(member(pointer, name), "unknown member %q; there are: %s", name, strings.Join(names, ", "))
		}
	}
	return object, true
}

// kind reads what is said of one kind; nothing at all is enough.
func (r *reader) kind(pointer, name string, value any) *mutlog.Kind {
	kind := &mutlog.Kind{}
	if value == nil {
		return kind
	}
	says, ok := r.object(pointer, value, "scope", "key", "maxDataBytes", "maxResources", "schema")
	if !ok {
		return kind
	}
	for _, what := range slices.Sorted(maps.Keys(says)) {
		at, value := member(pointer, what), says[what]
		switch what {
		case "scope":
			kind.Scope = r.scope(at, value)
		case "key":
			kind.Key = r.key(at, value)
		case "maxDataBytes":
			kind.DataBytes = int(r.number(at, what, value, 2, maxLimit))
		case "maxResources":
			kind.Resources = r.number(at, what, value, 1, int64(mutlog.MaxTimestamp))
		case "schema":
			if s := r.schema(at, name, value); s != nil {
				kind.Schema = s
			}
		}
	}
	return kind
}

// scope reads a scope.
func (r *reader) scope(pointer string, value any) string {
	scope, _ := value.(string)
	switch {
	case !mutlog.ValidScope(scope):
		r.refuse(pointer, "scope must be %s", mutlog.ScopeForm)
	case scope == "sync", scope == "sync:read":
		r.refuse(pointer, "scope must not be %q, which every call asks for anyway", scope)
	}
	return scope
}

// key reads the names of key fields.
func (r *reader) key(pointer string, value any) []string {
	list, _ := value.([]any)
	if len(list) < 1 || len(list) > maxKeyFields {
		r.refuse(pointer, "key must be a list of 1 to %d names of members of the data", maxKeyFields)
		return nil
	}
	var names []string
	for i, element := range list {
		name, _ := element.(string)
		at := pointer + "/" + strconv.Itoa(i)
		switch {
		case name == "":
			r.refuse(at, "key must list names of members of the data")
		case slices.Contains(names, name):
			r.refuse(at, "key has %q twice", name)
		}
		names = append(names, name)
	}
	return names
}

// number reads an integer from low to high.
func (r *reader) number(pointer, what string, value any, low, high int64) int64 {
	text, _ := value.(json.Number)
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n < low || n > high {
		r.refuse(pointer, "%s must be an integer from %d to %d", what, low, high)
		return 0
	}
	return n
}

// schema reads a schema that stands here, or the name of the file it is in.
func (r *reader) schema(pointer, name string, value any) mutlog.Schema {
	d := r.under(pointer, value)
	switch v := value.(type) {
	case map[string]any, bool:
	case string:
		file := v
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(r.document.file), file)
		}
		var err error
		if d, err = readDocument(file); err != nil {
			r.notRead(pointer, file, err)
			return nil
		}
	default:
		r.refuse(pointer, "schema must be a JSON Schema or the name of a file with one")
		return nil
	}
	s, problems := compile(name, d)
	r.problems = append(r.problems, problems...)
	return s
}

// notRead tells why there is nothing to have of a schema file.
func (r *reader) notRead(pointer, file string, err error) {
	if problems, ok := err.(Problems); ok {
		r.problems = append(r.problems, problems...)
		return
	}
	r.refuse(pointer, "the schema file %s cannot be read: %v", file, cannotRead(err))
}
