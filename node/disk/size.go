package disk

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"Pi", 1 << 50},
	{"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"P", 1e15},
}

// ParseSize parses a whole number of bytes with an optional unit: Ki, Mi, Gi, Ti, Pi (powers of 1024) or
// K, M, G, T, P (powers of 1000). Signs, fractions, spaces and sizes of 8 EiB or more are errors.
func ParseSize(text string) (int64, error) {
	digits, unit := text, int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			digits, unit = rest, u.bytes
			break
		}
	}
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, fmt.Errorf("size %q is not a whole number with a unit of Ki, Mi, Gi, Ti, Pi, K, M, G, T or P", text)
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("size %q is too large", text)
	}
	return n * unit, nil
}

// formatSize is for people: "8 GiB", or "894.3 GiB (960197124096 bytes)" when rounding hides something.
func formatSize(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	i := 4
	for n < sizeUnits[i].bytes {
		i--
	}
	u := sizeUnits[i]
	if n%u.bytes == 0 {
		return fmt.Sprintf("%d %sB", n/u.bytes, u.suffix)
	}
	return fmt.Sprintf("%.1f %sB (%d bytes)", float64(n)/float64(u.bytes), u.suffix, n)
}
