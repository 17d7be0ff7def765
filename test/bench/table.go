package main

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// The bars that a run must not break.
const (
	maxMemory = 1 << 30 // bytes of the process, at its peak
	maxWrites = 5       // to the API, for a volume
)

// table is the figures in the order in which they were measured.
type table struct {
	rows   []row
	broken []error
}

type row struct{ name, value, aim string }

func (t *table) add(name, value, aim string) { t.rows = append(t.rows, row{name, value, aim}) }

// section begins a part of the table.
func (t *table) section(name string) { t.add(name, "", "") }

func (t *table) has(section string) bool {
	for _, r := range t.rows {
		if r.value == "" && r.name == section {
			return true
		}
	}
	return false
}

func (t *table) seconds(name string, d time.Duration, aim string) {
	t.add(name, fmt.Sprintf("%.1f s", d.Seconds()), aim)
}

func (t *table) milliseconds(name string, d time.Duration, aim string) {
	t.add(name, fmt.Sprintf("%.2f ms", float64(d)/1e6), aim)
}

func (t *table) count(name string, n float64, aim string) {
	t.add(name, fmt.Sprintf("%.4g", n), aim)
	if n >= 1e4 {
		t.rows[len(t.rows)-1].value = fmt.Sprintf("%.0f", n)
	}
}

func (t *table) rate(name string, n int, d time.Duration) {
	t.add(name, fmt.Sprintf("%.1f a second", float64(n)/d.Seconds()), "")
}

// memory adds bytes; judged ones have an aim.
func (t *table) memory(name string, bytes float64, judged bool) {
	aim := ""
	if judged {
		aim = "under 1 GiB"
		if bytes >= maxMemory {
			t.broken = append(t.broken, fmt.Errorf("%s: %.0f MiB, the bar is 1 GiB", name, bytes/(1<<20)))
		}
	}
	t.add(name, fmt.Sprintf("%.0f MiB", bytes/(1<<20)), aim)
}

// writes adds the one count that has a bar.
func (t *table) writes(perVolume float64) {
	t.count("API writes per volume", perVolume, fmt.Sprintf("at most %d", maxWrites))
	if perVolume > maxWrites {
		t.broken = append(t.broken, fmt.Errorf("%.2f API writes per volume, the bar is %d", perVolume, maxWrites))
	}
}

func (t *table) print(w io.Writer, s scale) {
	fmt.Fprintf(w, "\n%d nodes, %d volumes that exist\n", s.Nodes, s.Volumes)
	for _, r := range t.rows {
		if r.value == "" {
			fmt.Fprintf(w, "\n%s\n", r.name)
			continue
		}
		fmt.Fprintf(w, "  %-44s %16s   %s\n", r.name, r.value, r.aim)
	}
	fmt.Fprintln(w)
}

// verdict is an error if a bar was broken.
func (t *table) verdict() error { return errors.Join(t.broken...) }
