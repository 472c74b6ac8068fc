package load

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
)

// Texts are data for mutations, made once, so that a request costs no more than
// copying them.
type Texts struct{ creates, updates [][]byte }

const variants = 256

// NewTexts makes data so that a mutation has about the given size.
func NewTexts(mutationBytes int) *Texts {
	const around = len(`{"type":"CREATE","resource":"NOTE","resourceId":"01234567-89ab-4cde-8f01-23456789abcd","data":}`)
	rnd := rand.New(rand.NewPCG(1, 2)) // the same in all runs
	t := &Texts{}
	for range variants {
		t.creates = append(t.creates, note{
			Title: prose(rnd, 24), Tags: []string{words[rnd.IntN(len(words))]}, Position: rnd.IntN(1000),
		}.sized(rnd, mutationBytes-around))
		t.updates = append(t.updates, note{Done: true}.sized(rnd, mutationBytes-around))
	}
	return t
}

// Create returns the data of a CREATE, a JSON object not to be changed.
func (t *Texts) Create(rnd *rand.Rand) []byte { return t.creates[rnd.IntN(variants)] }

// Update returns the data of an UPDATE of what Create has made.
func (t *Texts) Update(rnd *rand.Rand) []byte { return t.updates[rnd.IntN(variants)] }

// note is the data of a resource. An UPDATE has only what is set.
type note struct {
	Title    string   `json:"title,omitempty"`
	Body     string   `json:"body"`
	Tags     []string `json:"tags,omitempty"`
	Position int      `json:"position,omitempty"`
	Done     bool     `json:"done,omitempty"`
}

// sized returns the JSON of n, with a body that gives it the given size.
func (n note) sized(rnd *rand.Rand, size int) []byte {
	n.Body = prose(rnd, size-len(n.json()))
	return n.json()
}

func (n note) json() []byte {
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // it has nothing that cannot be written
	}
	return b
}

var words = strings.Fields("tide shore harbour island current river quiet morning letter garden window paper " +
	"bread winter summer market bridge stone copper lantern signal anchor compass meadow orchard train ticket")

// prose returns words of n bytes together.
func prose(rnd *rand.Rand, n int) string {
	var s strings.Builder
	for s.Len() < n {
		s.WriteString(words[rnd.IntN(len(words))] + " ")
	}
	return s.String()[:max(n, 0)]
}
