package server_test

// The examples, spoken to as apps do.

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// app is a device that pushes on the head that it was last told.
type app struct {
	*rig
	head int64
}

func newApp(t *testing.T, resources string) *app {
	return &app{newRig(t, goingBy(t, resources)), -1}
}

// push pushes mutations that must be taken, or be refused with these members in details.errors.
func (a *app) push(t *testing.T, mutations []string, members ...string) {
	t.Helper()
	got := a.post(fmt.Sprintf("lastMutationAt=%d", a.head), body(mutations...))
	var answer struct {
		Data  struct{ LastMutationAt int64 }
		Error struct {
			Details struct {
				Errors []struct {
					Index  int
					Member string
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(got.body), &answer); err != nil {
		t.Fatal(err)
	}
	var refused []string
	for _, e := range answer.Error.Details.Errors {
		refused = append(refused, fmt.Sprintf("%d %s", e.Index, e.Member))
	}
	want := 200
	if len(members) > 0 {
		want = 422
	}
	if got.StatusCode != want || strings.Join(refused, ", ") != strings.Join(members, ", ") {
		t.Errorf("%v\ngot %d %s, want %v", mutations, got.StatusCode, got.body, members)
	}
	if got.StatusCode == 200 {
		a.head = answer.Data.LastMutationAt
	}
}

// pushEach pushes mutations one by one, those that are taken and those that are not.
func (a *app) pushEach(t *testing.T, resource string, cases map[string]string) {
	t.Helper()
	for data, member := range cases {
		mutation := []string{fmt.Sprintf(`{"type":"CREATE","resource":%q,"data":%s}`, resource, data)}
		if member == "" {
			a.push(t, mutation)
		} else {
			a.push(t, mutation, "0 "+member)
		}
	}
}

func TestNotesExample(t *testing.T) {
	a := newApp(t, "../examples/notes/resources.yaml")
	a.pushEach(t, "NOTE", map[string]string{
		`{"text":"milk"}`: "",
		`{"text":"","color":"red","at":1769340915}`: "",
		`{}`:            "data",
		`{"text":null}`: "data/text",
	})
}

func TestQuranExample(t *testing.T) {
	a := newApp(t, "../examples/quran/resources.yaml")
	a.pushEach(t, "BOOKMARK", map[string]string{
		`{"key":2,"type":"ayah","verseNumber":255}`: "",
		`{"key":2,"type":"ayah","verseNumber":255,"isReading":false,"mushafId":4,"mushaf":"hafs","clientCreatedAt":1769340915573,"clientUpdatedAt":"2026-01-25T11:35:15.573Z"}`: "",
		`{"key":114,"type":"surah","verseNumber":null,"isReading":null,"mushafId":null}`:                                                                                        "",
		`{"key":30,"type":"juz"}`: "",
		`{"key":604,"type":"page","isReading":true,"clientUpdatedAt":null,"colour":"of a later version"}`: "",
		`{"key":115,"type":"ayah","verseNumber":1}`:                                                       "data/key",
		`{"key":"2","type":"ayah"}`:                                                                       "data/key",
		`{"key":1,"type":"verse"}`:                                                                        "data/type",
		`{"type":"page"}`:                                                                                 "data",
		`{"key":1,"type":"ayah","verseNumber":0}`:                                                         "data/verseNumber",
		`{"key":1,"type":"ayah","isReading":"yes"}`:                                                       "data/isReading",
	})
	a.pushEach(t, "COLLECTION", map[string]string{`{"name":"Favourites"}`: "", `{"name":""}`: "data/name", `{}`: "data", `{"name":"المفضلة","icon":"★"}`: ""})
	a.pushEach(t, "NOTE", map[string]string{
		`{"body":"On the throne","ranges":["2:255-2:257"]}`:                           "",
		`{"body":"","ranges":[],"saveToQR":true,"attachedEntities":[]}`:               "",
		`{"body":"two","ranges":["1:1-1:7","114:1"],"clientCreatedAt":1769340915573}`: "",
		`{"body":"x","ranges":null}`:                                                  "",
		`{"body":"x","ranges":["2:255-2:257","al-Baqarah 255"]}`:                      "data/ranges/1",
		`{"body":"x","ranges":"2:255-2:257"}`:                                         "data/ranges",
		`{"ranges":["2:255-2:257"]}`:                                                  "data",
	})
	a.pushEach(t, "READING_SESSION", map[string]string{
		`{"chapterNumber":18,"verseNumber":10}`:  "",
		`{"chapterNumber":0,"verseNumber":10}`:   "data/chapterNumber",
		`{"chapterNumber":1,"verseNumber":1000}`: "data/verseNumber",
	})
	a.pushEach(t, "HISTORY", map[string]string{`{}`: "resource"})

	// A bookmark goes into a collection, is taken out, and comes back.
	const link = `"resource":"COLLECTION_BOOKMARK","data":{"collectionId":"01JQ3Z","bookmarkId":"01JQ40"`
	a.push(t, []string{`{"type":"CREATE",` + link + `}}`, `{"type":"UPDATE",` + link + `,"order":3}}`})
	a.push(t, []string{`{"type":"DELETE",` + link + `}}`})
	a.get("mutationsSince=0&resources=COLLECTION_BOOKMARK").expect(t, 200,
		fmt.Sprintf(`"mutations":[{"type":"DELETE",%s},"timestamp":%d}]`, link, a.head))
	a.push(t, []string{`{"type":"CREATE",` + link + `}}`})
	a.push(t, []string{`{"type":"CREATE","resource":"COLLECTION_BOOKMARK","data":{"collectionId":7,"bookmarkId":null}}`},
		"0 data/bookmarkId", "0 data/bookmarkId", "0 data/collectionId")
	a.get("mutationsSince=-1&resources=COLLECTION_BOOKMARK").expect(t, 200, `"mutations":[{"type":"CREATE",`+link+`}`)

	// The server judges what an UPDATE makes of a bookmark, not the patch alone.
	a.push(t, []string{`{"type":"CREATE","resource":"BOOKMARK","resourceId":"b","data":{"key":2,"type":"page"}}`})
	a.push(t, []string{`{"type":"UPDATE","resource":"BOOKMARK","resourceId":"b","data":{"isReading":true}}`})
	a.push(t, []string{`{"type":"UPDATE","resource":"BOOKMARK","resourceId":"b","data":{"type":null}}`}, "0 data")
}
