package driver

import (
	"errors"
	"math/big"
	"regexp"
	"strconv"
)

// quantity is the form of a Kubernetes quantity without a sign: digits, perhaps a
// fraction, then a suffix or a decimal exponent
// (k8s.io/apimachinery/pkg/api/resource, Quantity). Its fractional suffixes n, u
// and m make no sense of bytes.
var quantity = regexp.MustCompile(`^([0-9]{1,20}(?:\.[0-9]{1,20})?)(?:([kMGTPE]|[KMGTPE]i)|[eE]([0-9]{1,2}))?$`)

var suffixes = map[string]int64{
	"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
}

// parseQuantity reads a Kubernetes quantity of whole bytes, 1 to 2⁶³-1.
func parseQuantity(s string) (int64, error) {
	m := quantity.FindStringSubmatch(s)
	if m == nil {
		return 0, errors.New("it is no quantity such as 104857600, 100M or 100Mi")
	}
	n, ok := new(big.Rat).SetString(m[1])
	if !ok {
		return 0, errors.New("it is no number")
	}
	unit := new(big.Int).SetInt64(suffixes[m[2]])
	if m[3] != "" {
		exponent, err := strconv.ParseInt(m[3], 10, 64)
		if err != nil {
			return 0, err
		}
		unit.Exp(big.NewInt(10), big.NewInt(exponent), nil)
	}
	n.Mul(n, new(big.Rat).SetInt(unit))
	switch {
	case n.Sign() == 0:
		return 0, errors.New("0 is no limit; leave the value empty for none")
	case !n.IsInt():
		return 0, errors.New("it is no whole number of bytes")
	case !n.Num().IsInt64():
		return 0, errors.New("it is too large")
	}
	return n.Num().Int64(), nil
}
