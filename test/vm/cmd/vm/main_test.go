package main

import "testing"

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"1": 1, "512": 512, "4K": 4 << 10, "64M": 64 << 20, "2G": 2 << 30, "1T": 1 << 40,
		"": 0, "G": 0, "-1G": 0, "0": 0, "1.5G": 0, "1GK": 0, "2g": 0, "9999999999999999T": 0,
	} {
		got, err := parseSize(in)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("parseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	f.Add("2G")
	f.Fuzz(func(t *testing.T, in string) {
		if n, err := parseSize(in); err == nil && n <= 0 {
			t.Errorf("parseSize(%q) = %d", in, n)
		}
	})
}
