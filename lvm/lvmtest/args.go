package lvmtest

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/lamina-csi/lamina/lvm"
)

// options are the ones that each command takes here, and whether with a value.
// They are those of lvm.Client; another one is refused, so that a test notices.
var options = map[string]map[string]bool{
	"vgcreate": {"--metadatasize": true, "--addtag": true, "--setautoactivation": true},
	"vgextend": {"--metadatasize": true},
	"vgchange": {"--addtag": true, "--activate": true},
	"lvcreate": {
		"--name": true, "--addtag": true, "--type": true,
		"--size": true, "--virtualsize": true, "--poolmetadatasize": true, "--chunksize": true,
		"--zero": true, "--discards": true, "--poolmetadataspare": true, "--stripes": true,
		"--mirrors": true, "--wipesignatures": true, "--snapshot": false,
		"--setactivationskip": true, "--ignoreactivationskip": false, "--permission": true, "--activate": true,
	},
	"lvremove": {"--yes": false},
	"lvextend": {"--driverloaded": true, "--size": true, "--poolmetadatasize": true},
	"lvchange": {
		"--addtag": true, "--deltag": true, "--activate": true,
		"--ignoreactivationskip": false, "--refresh": false,
	},
	"lvconvert": {
		"--yes": false, "--type": true, "--poolmetadata": true, "--chunksize": true,
		"--zero": true, "--discards": true, "--poolmetadataspare": true, "--addtag": true,
	},
	"fullreport": {
		"--reportformat": true, "--units": true, "--nosuffix": false, "--all": false,
		"--config": true, "--configreport": true, "-o": true,
	},
	"version": {},
}

// args is a parsed command line.
type args struct {
	values map[string][]string
	pos    []string
}

func parseArgs(cmd lvm.Command) (args, error) {
	a := args{values: map[string][]string{}}
	rest := cmd.Args
	for len(rest) > 0 {
		word := rest[0]
		rest = rest[1:]
		if word == "--" {
			a.pos = append(a.pos, rest...)
			break
		}
		if !strings.HasPrefix(word, "-") {
			// lvm would take it; a client that forgets "--" must be noticed.
			return a, usage(cmd.Name, "positional argument "+word+" before --")
		}
		value, known := options[cmd.Name][word]
		if word == "--devices" {
			value, known = true, true
		}
		switch {
		case !known:
			return a, usage(cmd.Name, "unrecognized option '"+word+"'")
		case value && len(rest) == 0:
			return a, usage(cmd.Name, "option '"+word+"' requires an argument")
		case value:
			a.values[word] = append(a.values[word], rest[0])
			rest = rest[1:]
		default:
			a.values[word] = append(a.values[word], "")
		}
	}
	for _, p := range a.pos {
		// A tag selection, which the client must never produce.
		if strings.HasPrefix(p, "@") || p == "" {
			return a, usage(cmd.Name, "positional argument '"+p+"'")
		}
	}
	return a, nil
}

func usage(command, what string) error {
	return &failure{exitInvalid, []string{
		command + ": " + what, "Error during parsing of command line.",
	}}
}

func (a args) has(option string) bool { return len(a.values[option]) > 0 }

// str is the last value of an option, or "".
func (a args) str(option string) string {
	v := a.values[option]
	if len(v) == 0 {
		return ""
	}
	return v[len(v)-1]
}

// bytes reads a size with the suffix "b"; 0 when the option is not given.
func (a args) bytes(option string) (int64, error) {
	s := a.str(option)
	if s == "" {
		return 0, nil
	}
	digits, ok := strings.CutSuffix(s, "b")
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n <= 0 {
		return 0, &failure{exitInvalid, []string{"Invalid argument for " + option + ": " + s, "Error during parsing of command line."}}
	}
	if n%sectorSize != 0 {
		return 0, &failure{exitInvalid, []string{
			fmt.Sprintf("Size is not a multiple of 512. Try using %d or %d.", n/sectorSize*sectorSize, roundUp(n, sectorSize)),
			"Invalid argument for " + option + ": " + s, "Error during parsing of command line.",
		}}
	}
	return n, nil
}

func (a args) count(option string) (int, error) {
	if !a.has(option) {
		return 1, nil
	}
	n, err := strconv.Atoi(a.str(option))
	if err != nil || n < 1 {
		return 0, &failure{exitInvalid, []string{"Invalid argument for " + option + ": " + a.str(option)}}
	}
	return n, nil
}

// vg is the group that the positional arguments name, or "".
func (a args) vg() string {
	if len(a.pos) == 0 {
		return ""
	}
	vg, _, _ := strings.Cut(a.pos[0], "/")
	return vg
}

// devices is the set of --devices; nil means all.
func (a args) devices() map[string]bool {
	if !a.has("--devices") {
		return nil
	}
	out := map[string]bool{}
	for _, d := range strings.Split(a.str("--devices"), ",") {
		out[d] = true
	}
	return out
}
