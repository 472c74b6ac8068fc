package mutlog

import (
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
)

// Rule 4: exact decimal text, never a float.
func TestParseCursor(t *testing.T) {
	valid := map[string]Timestamp{
		"-1":                               -1,
		"-1.0":                             -1,
		"-10e-1":                           -1,
		"0":                                0,
		"-0":                               0,
		"-0.0":                             0,
		"0e999999999999999999999":          0,
		"0.00e-5":                          0,
		"1":                                1,
		"1731636500":                       1731636500, // in seconds
		"1731636500303":                    1731636500303,
		"1731636500303.0":                  1731636500303,
		"1731636500303.00000":              1731636500303,
		"1.731636500303e12":                1731636500303,
		"1.731636500303E+12":               1731636500303,
		"17316365003030000e-4":             1731636500303,
		"0.000001731636500303e18":          1731636500303,
		"1.000000000000000000000000000e03": 1000,
		"9007199254740991":                 MaxTimestamp,
		"9007199254740991.0":               MaxTimestamp,
		"9.007199254740991e15":             MaxTimestamp,
	}
	for s, want := range valid {
		if got, err := ParseCursor(s); got != want || err != nil {
			t.Errorf("%q: got %d, %v, want %d", s, got, err, want)
		}
	}
	invalid := map[error][]string{
		ErrNumberSyntax: { // 400
			"", " ", " 1", "1 ", "+1", "--1", "-", "01", "-01", "00", "0x10", "0x1p4", "0b1", "0o7", "1_000", "1,000",
			"NaN", "nan", "Inf", "-Inf", "infinity", "null", "true", "undefined", "abc", `"1"`, ".5", "1.", "1.e3", "-.5",
			"1e", "1e+", "1e1.5", "e5", "1e5e5", "1.2.3", "1\x00", "1\n", "1\r\n", "１", "٣", "1a", "1;",
			strings.Repeat("1", 33), "1." + strings.Repeat("0", 31), strings.Repeat("9", 10_000), "-" + strings.Repeat("0", 32),
		},
		ErrNumberFraction: { // 422
			"1731636500303.5", "0.5", "-0.5", "-1.5", "1e-1", "15e-1", "9007199254740990.9", "1e-9999", "1e-99999999999999999999",
			"0.00000000000000000000000000001", "9007199254740992.5",
		},
		ErrNumberRange: { // 422
			"-2", "-2.0", "-9223372036854775808", "-1e1", "9007199254740992", "9007199254740993", "9.007199254740992e15",
			"9223372036854775807", "9223372036854775808", "18446744073709551616", "18446744073709551617", "1e400", "-1e400",
			"1" + strings.Repeat("0", 30), strings.Repeat("9", 32), "1e99999999999999999999",
		},
	}
	for want, list := range invalid {
		for _, s := range list {
			if got, err := ParseCursor(s); !errors.Is(err, want) {
				t.Errorf("%.40q: got %d, %v, want %v", s, got, err, want)
			}
		}
	}
}

// The bounds of limit and page are given by the caller.
func TestParseNumberBounds(t *testing.T) {
	tests := []struct {
		s    string
		want int64
		err  error
	}{
		{"1", 1, nil}, {"1000", 1000, nil}, {"100.0", 100, nil}, {"1e3", 1000, nil},
		{"0", 0, ErrNumberRange}, {"-1", 0, ErrNumberRange}, {"1001", 0, ErrNumberRange}, {"1e9", 0, ErrNumberRange},
		{"100.5", 0, ErrNumberFraction}, {"abc", 0, ErrNumberSyntax}, {"", 0, ErrNumberSyntax},
	}
	for _, test := range tests {
		if got, err := ParseNumber(test.s, 1, 1000); got != test.want || !errors.Is(err, test.err) {
			t.Errorf("%q: got %d, %v, want %d, %v", test.s, got, err, test.want, test.err)
		}
	}
}

// Random numbers mean what math/big says that they mean.
func TestParseNumberExactly(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		s := fmt.Sprint(rnd.Int64N(1 << rnd.IntN(62)))
		if rnd.IntN(2) == 0 {
			s = "-" + s
		}
		if rnd.IntN(2) == 0 {
			s += fmt.Sprintf(".%0*d", 1+rnd.IntN(6), rnd.IntN(10)*rnd.IntN(2))
		}
		if rnd.IntN(2) == 0 {
			s += fmt.Sprintf("e%d", rnd.IntN(20)-10)
		}
		if len(s) > maxNumberLen {
			continue
		}
		exact, _ := new(big.Rat).SetString(s)
		n, err := ParseCursor(s)
		switch {
		case !exact.IsInt():
			if !errors.Is(err, ErrNumberFraction) {
				t.Fatalf("%s: got %d, %v, want a fraction", s, n, err)
			}
		case exact.Num().Cmp(big.NewInt(-1)) < 0 || exact.Num().Cmp(big.NewInt(1<<53-1)) > 0:
			if !errors.Is(err, ErrNumberRange) {
				t.Fatalf("%s: got %d, %v, want it out of range", s, n, err)
			}
		case err != nil || exact.Num().Cmp(big.NewInt(int64(n))) != 0:
			t.Fatalf("%s: got %d, %v", s, n, err)
		}
	}
}

// FuzzParseCursor: no text makes the parser panic or leave its bounds.
func FuzzParseCursor(f *testing.F) {
	for _, s := range []string{"-1", "1.731636500303e12", "9007199254740992", "1e-9999", "01", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseCursor(s); err == nil && (n < Beginning || n > MaxTimestamp) {
			t.Errorf("%q: %d", s, n)
		}
	})
}
