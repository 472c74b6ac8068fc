package resources

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// parseJSON fills d with what JSON says.
func (d *document) parseJSON(text []byte) Problems {
	r := jsonReader{document: d, json: jsontext.NewDecoder(bytes.NewBuffer(text)), text: text}
	var err error
	if d.value, err = r.value(); err != nil {
		return Problems{r.problem(err)}
	}
	at := r.place()
	if _, err = r.json.ReadToken(); err != io.EOF {
		return Problems{{d.file, at.line, at.column, "there is more after the JSON value"}}
	}
	return nil
}

// jsonReader reads JSON values and notes their places.
type jsonReader struct {
	*document
	json *jsontext.Decoder
	text []byte
}

// place returns where the next token begins.
func (r *jsonReader) place() place {
	at := int(r.json.InputOffset())
	return placeOf(r.text, at+len(r.text[at:])-len(bytes.TrimLeft(r.text[at:], " \t\r\n,:")))
}

// placeOf returns the place of an offset in bytes.
func placeOf(text []byte, offset int) place {
	before := text[:min(offset, len(text))]
	return place{bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')}
}

// problem says where and why the text is no JSON.
func (r *jsonReader) problem(err error) Problem {
	at, reason := r.place(), "it ends too early"
	var syntax *jsontext.SyntacticError
	if err == errDeep {
		reason = tooDeep
	}
	if errors.As(err, &syntax) && !errors.Is(err, io.ErrUnexpectedEOF) {
		at, reason = placeOf(r.text, int(syntax.ByteOffset)), syntax.Err.Error()
	}
	return Problem{r.file, at.line, at.column, reason}
}

var errDeep = errors.New(tooDeep)

// value reads the next value, whose name, if it has one, has been read.
func (r *jsonReader) value() (any, error) {
	at := r.place()
	t, err := r.json.ReadToken()
	if err != nil {
		return nil, err
	}
	if pointer := string(r.json.StackPointer()); r.at[pointer] == (place{}) { // not after a name
		r.at[pointer] = at
	}
	if r.json.StackDepth() > maxNesting {
		return nil, errDeep
	}
	switch t.Kind() {
	case '{':
		return r.object()
	case '[':
		return r.list()
	case '"':
		return t.String(), nil
	case '0':
		return json.Number(t.String()), nil
	case 't', 'f':
		return t.Bool(), nil
	}
	return nil, nil
}

func (r *jsonReader) object() (any, error) {
	object := map[string]any{}
	for r.json.PeekKind() != '}' {
		at := r.place()
		name, err := r.json.ReadToken()
		if err != nil {
			return nil, err
		}
		r.at[string(r.json.StackPointer())] = at
		text := name.String() // the token is only valid until the next
		if object[text], err = r.value(); err != nil {
			return nil, err
		}
	}
	_, err := r.json.ReadToken()
	return object, err
}

func (r *jsonReader) list() (any, error) {
	list := []any{}
	for r.json.PeekKind() != ']' {
		element, err := r.value()
		if err != nil {
			return nil, err
		}
		list = append(list, element)
	}
	_, err := r.json.ReadToken()
	return list, err
}
