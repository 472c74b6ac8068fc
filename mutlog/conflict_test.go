package mutlog

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Rule 12: the fields are the top-level members of both branches that differ.
func TestDifferences(t *testing.T) {
	tests := []struct {
		name           string
		kind           Type
		client, server string // "" is no data
		want           []string
	}{
		{"equal", Create, `{"a":1,"b":{"c":2}}`, `{"b":{"c":2},"a":1}`, []string{}},
		{"values, sorted", Create, `{"b":1,"a":1,"c":1}`, `{"a":2,"b":2,"c":1}`, []string{"a", "b"}},
		{"only at the client", Create, `{"a":1}`, `{}`, []string{"a"}},
		{"only at the server", Create, `{}`, `{"a":1}`, []string{"a"}},
		{"a patch is silent about the rest", Update, `{"a":1}`, `{"a":1,"b":2}`, []string{}},
		{"a patch", Update, `{"a":1,"c":3}`, `{"a":0,"b":2}`, []string{"a", "c"}},
		{"a patch that removes", Update, `{"a":null,"b":null}`, `{"a":1}`, []string{"a"}},
		{"text of numbers", Create, `{"a":1}`, `{"a":1.0}`, []string{"a"}},
		{"escapes", Create, `{"\u0061":"\u00e9"}`, `{"a":"é"}`, []string{}},
		{"names are given unescaped", Create, `{"\u00e9":1}`, `{}`, []string{"é"}},
		{"a deletion here", Delete, ``, `{"b":1,"a":2}`, []string{"a", "b"}},
		{"a deletion here, sent with data", Delete, `{"b":1}`, `{"b":1,"a":2}`, []string{"a", "b"}},
		{"a deletion there", Create, `{"b":1,"a":2}`, ``, []string{"a", "b"}},
		{"a patch of what is deleted there", Update, `{"b":1,"a":null}`, ``, []string{"b"}},
		{"a deletion on both sides", Delete, ``, ``, []string{}},
	}
	for _, test := range tests {
		client, server := Mutation{Type: test.kind}, Entry{}
		if test.client != "" {
			client.Data = []byte(test.client)
		}
		if test.server != "" {
			server.State = []byte(test.server)
		}
		if diff := cmp.Diff(test.want, differences(nil, &client, &server)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", test.name, diff)
		}
	}
}
