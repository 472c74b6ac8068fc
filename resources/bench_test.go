package resources

import (
	"fmt"
	"testing"
)

// BenchmarkValidate compares a bookmark with the schema of the example.
func BenchmarkValidate(b *testing.B) {
	kinds, err := Read("../examples/quran/resources.yaml")
	if err != nil {
		b.Fatal(err)
	}
	for _, extra := range []int{0, 100, 1000} {
		data := []byte(`{"key":2,"type":"ayah","verseNumber":255,"isReading":false,"clientCreatedAt":1769340915573,"x":[0`)
		for range extra {
			data = append(data, `,12345678`...)
		}
		data = append(data, "]}"...)
		b.Run(fmt.Sprintf("%d bytes", len(data)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if found := kinds["BOOKMARK"].Schema.Validate(data); found != nil {
					b.Fatal(found)
				}
			}
		})
	}
}
