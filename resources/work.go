package resources

import (
	"errors"
	"reflect"
	"runtime"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// A schema that refers to itself from several of its branches, as one for the
// kinds of nodes in a document may, is compared with what is innermost once for
// each way through the branches: their number, to the power of the depth. So a
// few bytes of data could keep a server busy for ever. The library can neither
// be interrupted nor remembers what it has found, so that what it does is
// counted, and after a number of steps the answer is no. How many it takes may
// differ a little from one time to the next, since the library goes through the
// members of an object in any order.
const (
	leastSteps   = 20_000 // that any data may take, some 20 ms
	stepsPerByte = 4      // that it may take beside them
)

var errTooMuch = errors.New("too many steps")

// counted is a compiled schema whose steps are counted: each comparison of a
// part of the data with a part of the schema is one. It serves one at a time.
type counted struct {
	compiled *jsonschema.Schema
	left     int // steps; below 0 when there were too many
}

func newCounted(s *jsonschema.Schema) *counted {
	c := &counted{compiled: s}
	c.watch(s, map[*jsonschema.Schema]bool{})
	return c
}

// watch has every part of a schema that can be reached from s count. It takes
// the place of a format, which the library looks at before anything that leads
// to other parts, and which refuses nothing otherwise.
func (c *counted) watch(s *jsonschema.Schema, seen map[*jsonschema.Schema]bool) {
	if s == nil || seen[s] {
		return
	}
	seen[s] = true
	s.Format = &jsonschema.Format{Name: "steps", Validate: c.step}
	of := reflect.ValueOf(s).Elem()
	for i := range of.NumField() {
		if of.Type().Field(i).IsExported() {
			c.watchIn(of.Field(i), seen)
		}
	}
}

// watchIn watches the schemas in a field of a schema.
func (c *counted) watchIn(v reflect.Value, seen map[*jsonschema.Schema]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		switch p := v.Interface().(type) {
		case *jsonschema.Schema:
			c.watch(p, seen)
		case *jsonschema.DynamicRef:
			if p != nil {
				c.watch(p.Ref, seen)
			}
		}
	case reflect.Interface:
		c.watchIn(v.Elem(), seen)
	case reflect.Slice:
		for i := range v.Len() {
			c.watchIn(v.Index(i), seen)
		}
	case reflect.Map:
		for _, name := range v.MapKeys() {
			c.watchIn(v.MapIndex(name), seen)
		}
	}
}

func (c *counted) step(any) error {
	if c.left--; c.left < 0 {
		return errTooMuch
	}
	return nil
}

// compare compares a value, whose text has size bytes, with the schema. It fails
// with errTooMuch if that takes too long, else with a
// *jsonschema.ValidationError if the value does not fit.
func (c *counted) compare(value any, size int) error {
	c.left = leastSteps + stepsPerByte*size
	err := c.compiled.Validate(value)
	if c.left < 0 {
		return errTooMuch
	}
	return err
}

// newIdle returns room for the copies of a schema that nobody uses just now.
func newIdle() chan *counted { return make(chan *counted, runtime.GOMAXPROCS(0)) }

// take returns a copy of the schema for one comparison.
func (s *schema) take() *counted {
	select {
	case c := <-s.idle:
		return c
	default:
		return s.compile()
	}
}

// put gives it back.
func (s *schema) put(c *counted) {
	select {
	case s.idle <- c:
	default:
	}
}
