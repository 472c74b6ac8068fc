package mutlog

import (
	"errors"
	"strings"
)

// maxNumberLen bounds the text of a number in a query, in bytes.
const maxNumberLen = 32

// Errors of ParseNumber and ParseCursor. ErrNumberSyntax says that the text is
// no number, the others that it is a number with a value that is not allowed.
var (
	ErrNumberSyntax   = errors.New("is not a decimal number")
	ErrNumberFraction = errors.New("must be an integer")
	ErrNumberRange    = errors.New("is out of range")
)

// ParseCursor reads a cursor: an integer from -1 to 2^53-1 (rule 4). Its errors
// are those of ParseNumber.
func ParseCursor(s string) (Timestamp, error) {
	n, err := ParseNumber(s, int64(Beginning), int64(MaxTimestamp))
	return Timestamp(n), err
}

// ParseNumber reads s as exact decimal text, never through a float, so that
// 1731636500303, 1731636500303.0 and 1.731636500303e12 are the same and
// 2^53 + 1 stays what it is. The grammar is that of a JSON number of at most 32
// characters; anything else is ErrNumberSyntax. A value that is no integer is
// ErrNumberFraction, one outside [low, high] ErrNumberRange.
func ParseNumber(s string, low, high int64) (int64, error) {
	digits, exp, negative, err := splitNumber(s)
	if err != nil {
		return 0, err
	}
	digits = strings.TrimLeft(digits, "0")
	if digits == "" {
		digits, exp = "0", 0
	}
	for exp < 0 && strings.HasSuffix(digits, "0") {
		digits, exp = digits[:len(digits)-1], exp+1
	}
	if exp < 0 {
		return 0, ErrNumberFraction
	}
	// 18 digits fit an int64 and exceed every bound that is asked for.
	if len(digits)+exp > 18 {
		return 0, ErrNumberRange
	}
	var n int64
	for _, c := range []byte(digits) {
		n = n*10 + int64(c-'0')
	}
	for ; exp > 0; exp-- {
		n *= 10
	}
	if negative {
		n = -n
	}
	if n < low || n > high {
		return 0, ErrNumberRange
	}
	return n, nil
}

// splitNumber takes a JSON number apart: its value is ±digits × 10^exp.
func splitNumber(s string) (digits string, exp int, negative bool, err error) {
	if s == "" || len(s) > maxNumberLen {
		return "", 0, false, ErrNumberSyntax
	}
	rest, negative := strings.CutPrefix(s, "-")
	whole, rest := cutDigits(rest)
	if whole == "" || (len(whole) > 1 && whole[0] == '0') {
		return "", 0, false, ErrNumberSyntax
	}
	var fraction string
	if strings.HasPrefix(rest, ".") {
		if fraction, rest = cutDigits(rest[1:]); fraction == "" {
			return "", 0, false, ErrNumberSyntax
		}
	}
	if rest != "" && (rest[0] == 'e' || rest[0] == 'E') {
		rest = rest[1:]
		sign := 1
		if rest != "" && (rest[0] == '+' || rest[0] == '-') {
			if rest[0] == '-' {
				sign = -1
			}
			rest = rest[1:]
		}
		var e string
		if e, rest = cutDigits(rest); e == "" {
			return "", 0, false, ErrNumberSyntax
		}
		// Beyond four digits the value is out of range or a fraction anyway.
		for _, c := range []byte(e) {
			exp = min(exp*10+int(c-'0'), 9999)
		}
		exp *= sign
	}
	if rest != "" {
		return "", 0, false, ErrNumberSyntax
	}
	return whole + fraction, exp - len(fraction), negative, nil
}

// cutDigits splits s after its leading decimal digits.
func cutDigits(s string) (digits, rest string) {
	i := 0
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}
