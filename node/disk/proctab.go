package disk

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
)

// mount is a line of mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	dev    string // major:minor
	point  string // in the kernel's own escaping, which is safe to show
	source string
}

// maxLine bounds a line: an overlay mount names each of its layers.
const maxLine = 4 << 20

// parseMountinfo is strict: a line that it does not understand could be the one that matters.
func parseMountinfo(r io.Reader) ([]mount, error) {
	var mounts []mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		// 36 35 98:0 /root /point rw,noatime master:1 … - ext3 /dev/source rw
		// Optional fields come after the sixth; before them a "-" may be a path.
		fields := strings.Split(lines.Text(), " ")
		end := slices.Index(fields[min(6, len(fields)):], "-") + 6
		if end < 6 || len(fields) < end+4 {
			return nil, fmt.Errorf("parse mountinfo: line %q has too few fields", lines.Text())
		}
		if _, _, err := parseDev(fields[2]); err != nil {
			return nil, fmt.Errorf("parse mountinfo: %w", err)
		}
		source, err := unescape(fields[end+2])
		if err != nil {
			return nil, fmt.Errorf("parse mountinfo: source: %w", err)
		}
		mounts = append(mounts, mount{dev: fields[2], point: fields[4], source: source})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("parse mountinfo: %w", err)
	}
	return mounts, nil
}

// parseSwaps returns the paths in /proc/swaps (proc_swaps(5)): a heading, then one line for each area.
func parseSwaps(r io.Reader) ([]string, error) {
	var paths []string
	lines := bufio.NewScanner(r)
	for n := 0; lines.Scan(); n++ {
		// Only these two separate: any other kind of space may be part of a path.
		fields := strings.FieldsFunc(lines.Text(), func(r rune) bool { return r == ' ' || r == '\t' })
		if n == 0 {
			if len(fields) == 0 || fields[0] != "Filename" {
				return nil, fmt.Errorf("parse swaps: heading %q", lines.Text())
			}
			continue
		}
		if len(fields) < 5 {
			return nil, fmt.Errorf("parse swaps: line %q has too few fields", lines.Text())
		}
		path, err := unescape(fields[0])
		if err != nil {
			return nil, fmt.Errorf("parse swaps: %w", err)
		}
		paths = append(paths, path)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("parse swaps: %w", err)
	}
	return paths, nil
}

// unescape undoes the kernel's mangle_path, which writes white space and backslashes as \ooo (fs/seq_file.c).
func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		var v int
		for j := i + 1; j <= i+3; j++ {
			if j >= len(s) || s[j] < '0' || s[j] > '7' {
				return "", fmt.Errorf("bad escape in %q", s)
			}
			v = v<<3 | int(s[j]-'0')
		}
		if v > 255 {
			return "", fmt.Errorf("bad escape in %q", s)
		}
		b.WriteByte(byte(v))
		i += 3
	}
	return b.String(), nil
}
