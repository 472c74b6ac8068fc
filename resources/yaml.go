package resources

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// parseYAML fills d with what YAML says. It takes what JSON can say, too: no
// anchors, no tags, and numbers in decimal.
func (d *document) parseYAML(text []byte) Problems {
	tokens := lexer.Tokenize(string(text))
	if deep := nestedOver(tokens); deep != nil {
		return Problems{problemAt(d.file, deep, "%s", tooDeep)}
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // which it finds, one at a time
	var syntax yaml.Error
	switch {
	case errors.As(err, &syntax):
		return Problems{{d.file, syntax.GetToken().Position.Line, syntax.GetToken().Position.Column, syntax.GetMessage()}}
	case err != nil:
		return Problems{{d.file, 1, 1, err.Error()}}
	case len(file.Docs) == 0 || file.Docs[0].Body == nil:
		return Problems{{d.file, 1, 1, "the file is empty"}}
	case len(file.Docs) > 1 && file.Docs[1].Body != nil:
		return Problems{problemAt(d.file, file.Docs[1].Body.GetToken(), "a second document begins here")}
	}
	r := yamlReader{document: d}
	d.value = r.value("", file.Docs[0].Body)
	return r.problems
}

// nestedOver returns the token at which tokens are nested over maxNesting levels,
// or nil, before the parser takes the memory for it. Levels that are indented
// are not counted: a file has no room for many. Those on one line are.
func nestedOver(tokens token.Tokens) *token.Token {
	flow, inLine, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			inLine, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType:
			inLine++
		}
		if flow > maxNesting || inLine > maxNesting {
			return t
		}
	}
	return nil
}

// yamlReader turns YAML nodes into JSON values.
type yamlReader struct {
	*document
	problems Problems
}

func problemAt(file string, t *token.Token, format string, args ...any) Problem {
	return Problem{file, t.Position.Line, t.Position.Column, fmt.Sprintf(format, args...)}
}

func (r *yamlReader) refuse(n ast.Node, format string, args ...any) {
	r.problems = append(r.problems, problemAt(r.file, n.GetToken(), format, args...))
}

// value returns what n says, which is at pointer.
func (r *yamlReader) value(pointer string, n ast.Node) any {
	if r.at[pointer] == (place{}) { // not after a name
		r.at[pointer] = place{n.GetToken().Position.Line, n.GetToken().Position.Column}
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		return r.object(pointer, n.Values)
	case *ast.MappingValueNode:
		return r.object(pointer, []*ast.MappingValueNode{n})
	case *ast.SequenceNode:
		list := make([]any, len(n.Values))
		for i, element := range n.Values {
			list[i] = r.value(fmt.Sprintf("%s/%d", pointer, i), element)
		}
		return list
	case *ast.StringNode:
		if n.Token.Type == token.StringType && isNumber(n.Value) {
			return json.Number(n.Value) // one that is too large for the parser
		}
		return n.Value
	case *ast.LiteralNode:
		return n.Value.Value
	case *ast.BoolNode:
		return n.Value
	case *ast.NullNode:
		return nil
	case *ast.IntegerNode, *ast.FloatNode:
		if text := n.GetToken().Value; isNumber(text) {
			return json.Number(text)
		}
		r.refuse(n, "%s is not a decimal number as JSON writes it", n.GetToken().Value)
		return nil
	}
	r.refuse(n, "anchors, aliases, tags and numbers that are none are not supported")
	return nil
}

// object returns the members of a mapping.
func (r *yamlReader) object(pointer string, members []*ast.MappingValueNode) any {
	object := make(map[string]any, len(members))
	for _, m := range members {
		name, ok := nameOf(m.Key)
		if !ok {
			r.refuse(m.Key, "a name must be plain text")
			continue
		}
		if _, twice := object[name]; twice {
			r.refuse(m.Key, "%q is there twice", name)
			continue
		}
		at := member(pointer, name)
		r.at[at] = place{m.Key.GetToken().Position.Line, m.Key.GetToken().Position.Column}
		object[name] = r.value(at, m.Value)
	}
	return object
}

// nameOf returns the text of a scalar that is the name of a member.
func nameOf(n ast.MapKeyNode) (name string, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return n.GetToken().Value, true
	}
	return "", false
}
