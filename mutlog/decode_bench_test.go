package mutlog

import (
	"fmt"
	"strings"
	"testing"
)

// benchBody is a push of n mutations of about 250 bytes each.
func benchBody(n int) []byte {
	var b strings.Builder
	b.WriteString(`{"mutations":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"type":"CREATE","resource":"BOOKMARK","resourceId":"0193a7c2-5b1e-7c3a-9d55-%012d","data":`+
			`{"key":"2:255","title":"The Throne Verse %d","tags":["night","memorise"],"position":{"page":42,"line":7.50},"note":"read slowly and stop at the middle","isReading":false}}`, i, i)
	}
	b.WriteString(`]}`)
	return []byte(b.String())
}

func BenchmarkDecodePush(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			body := benchBody(n)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodePush(body, DefaultLimits, Access{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
