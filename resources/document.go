package resources

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// document is a YAML or JSON file as JSON values, numbers as the text they are
// written in, with the place of each.
type document struct {
	file  string
	value any
	at    map[string]place // of values and of names of members, by JSON Pointer
}

// place is where something begins in a file, from 1.
type place struct{ line, column int }

// problem says what is wrong with what is at pointer, or at what is around it.
func (d *document) problem(pointer, format string, args ...any) Problem {
	for {
		if at, known := d.at[pointer]; known || pointer == "" {
			return Problem{d.file, max(at.line, 1), max(at.column, 1), fmt.Sprintf(format, args...)}
		}
		pointer = pointer[:strings.LastIndexByte(pointer, '/')]
	}
}

// under returns the part of d at pointer as a document of its own.
func (d *document) under(pointer string, value any) *document {
	part := &document{file: d.file, value: value, at: map[string]place{}}
	for p, at := range d.at {
		if rest, ok := strings.CutPrefix(p, pointer); ok && (rest == "" || rest[0] == '/') {
			part.at[rest] = at
		}
	}
	return part
}

// maxFileBytes and maxNesting bound a file: what can be meant. The libraries take
// time and memory by the square of both.
const (
	maxFileBytes = 256 << 10
	maxNesting   = 100
)

// tooDeep is what is wrong with a file over maxNesting.
var tooDeep = fmt.Sprintf("it is nested over %d levels", maxNesting)

// readDocument reads a file: JSON if its name ends so, else YAML.
func readDocument(file string) (*document, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return nil, &os.PathError{Op: "read", Path: file, Err: fmt.Errorf("it is no file of at most %d bytes", maxFileBytes)}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseDocument(file, text)
}

// parseDocument parses the text of a file. Its errors are Problems.
func parseDocument(file string, text []byte) (*document, error) {
	d := &document{file: file, at: map[string]place{}}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // the mark that some editors put in front
	if !utf8.Valid(text) {
		return nil, Problems{{file, 1, 1, "it is not UTF-8"}}
	}
	parse := d.parseYAML
	if strings.EqualFold(filepath.Ext(file), ".json") {
		parse = d.parseJSON
	}
	if problems := parse(text); len(problems) > 0 {
		return nil, problems
	}
	return d, nil
}

// isNumber tells whether text is a number of JSON.
func isNumber(text string) bool {
	isDigit := func(c byte) bool { return '0' <= c && c <= '9' }
	return text != "" && (text[0] == '-' || isDigit(text[0])) && isDigit(text[len(text)-1]) && json.Valid([]byte(text))
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// member returns the pointer to a member of what is at pointer (RFC 6901).
func member(pointer, name string) string { return pointer + "/" + pointerEscapes.Replace(name) }

// cannotRead is why a file cannot be read, without its name.
func cannotRead(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
