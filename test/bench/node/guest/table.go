package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// table is the figures in the order in which they were measured.
type table struct {
	rows   []row
	missed int
}

type row struct{ figure, bar, measured, met string }

// add keeps a row, and shows it at once to who waits.
func (t *table) add(r row) {
	t.rows = append(t.rows, r)
	fmt.Fprintf(os.Stderr, "    %s: %s %s\n", r.figure, r.measured, r.met)
}

func (t *table) section(name string) { t.add(row{figure: name}) }

// tell adds a figure without a bar.
func (t *table) tell(figure, measured string) {
	t.add(row{figure: figure, measured: measured})
}

// judge adds a figure with one.
func (t *table) judge(figure, bar, measured string, met bool) {
	r := row{figure, bar, measured, "met"}
	if !met {
		r.met = "MISSED"
		t.missed++
	}
	t.add(r)
}

// ratio is a ÷ b of two medians, to be at most bar; a bar of 0 is none.
func (t *table) ratio(figure string, a, b sample, bar float64) {
	got := float64(a.median()) / float64(b.median())
	text := fmt.Sprintf("%.2f (%s ÷ %s)", got, a, b)
	if bar == 0 {
		t.tell(figure, text)
		return
	}
	t.judge(figure, fmt.Sprintf("≤ %.2f", bar), text, got <= bar)
}

func (t *table) print(w io.Writer) {
	fmt.Fprintf(w, "\n| figure | bar | measured | |\n|---|---|---|---|\n")
	for _, r := range t.rows {
		if r.measured == "" {
			r.figure = "**" + r.figure + "**"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", r.figure, r.bar, r.measured, r.met)
	}
	fmt.Fprintln(w)
	if t.missed > 0 {
		fmt.Fprintf(w, "%d BARS ARE MISSED.\n", t.missed)
		return
	}
	fmt.Fprintln(w, "Every bar that was measured is met.")
}

// sample is how long one thing took, each time.
type sample []time.Duration

func (s sample) median() time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func (s sample) String() string { return ms(s.median()) }

func ms(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.3f ms", d.Seconds()*1e3)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
}

// timed runs do and adds how long it took.
func (s *sample) timed(do func() error) error {
	start := time.Now()
	if err := do(); err != nil {
		return err
	}
	*s = append(*s, time.Since(start))
	return nil
}
