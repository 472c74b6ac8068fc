package mutlog

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What AppendJSON writes, UnmarshalJSON reads, with every byte of the data.
func TestUnmarshalMutation(t *testing.T) {
	for _, m := range []Mutation{
		{Type: Delete, Resource: "NOTE", ResourceID: "a"},
		{Type: Create, Resource: "NOTE", Data: []byte(`{}`)},
		{Type: Update, Resource: "NOTE_2", ResourceID: "é\"\\/\u00a0", Data: []byte(`{ "n" : 1.50, "<": "\u00e9", "n2":9007199254740993 }`), Timestamp: MaxTimestamp},
	} {
		text := m.AppendJSON(nil)
		var got Mutation
		if err := json.Unmarshal(text, &got); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
		clear(text) // which belonged to the decoder
		if diff := cmp.Diff(m, got); diff != "" {
			t.Errorf("it shares the bytes that it was read from: %s", diff)
		}
	}
	var got Mutation
	later := `{"type":"DELETE","\u0072esource":"NOTE","resourceId":"a","timestamp":1.7e12,"unknown":[1]}`
	if err := json.Unmarshal([]byte(later), &got); err != nil || got.Resource != "NOTE" || got.Timestamp != 1_700_000_000_000 {
		t.Errorf("%s: %+v %v", later, got, err)
	}
}

func TestUnmarshalMutationRefuses(t *testing.T) {
	for _, text := range []string{
		`null`, `[]`, `"x"`, `{}`, `{"type":"DELETE"}`, `{"resource":"NOTE"}`, `{"type":"delete","resource":"NOTE"}`, `{"type":1,"resource":"NOTE"}`,
		`{"type":"DELETE","resource":"note"}`, `{"type":"DELETE","resource":null}`, `{"type":"DELETE","resource":"NOTE","resourceId":""}`,
		`{"type":"DELETE","resource":"NOTE","resourceId":1}`, `{"type":"CREATE","resource":"NOTE","data":[]}`, `{"type":"CREATE","resource":"NOTE","data":null}`,
		`{"type":"DELETE","resource":"NOTE","timestamp":"1"}`, `{"type":"DELETE","resource":"NOTE","timestamp":0}`, `{"type":"DELETE","resource":"NOTE","timestamp":1.5}`,
		`{"type":"DELETE","resource":"NOTE","timestamp":9007199254740992}`, `{"type":"DELETE","type":"DELETE","resource":"NOTE"}`,
		`{"type":"CREATE","resource":"NOTE","data":{"a":1,"a":2}}`, "{\"type\":\"CREATE\",\"resource\":\"NOTE\",\"data\":{\"a\":\"\xff\"}}",
		`{"TYPE":"DELETE","resource":"NOTE"}`,
	} {
		m := Mutation{Resource: "KEPT"}
		if err := m.UnmarshalJSON([]byte(text)); err == nil || m.Resource != "KEPT" {
			t.Errorf("%s: %+v %v", text, m, err)
		}
	}
}
