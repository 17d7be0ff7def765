package mount

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// mkfsFlag is one flag of a mkfs program. Exactly one of its fields says what follows the flag.
type mkfsFlag struct {
	value    *regexp.Regexp            // one word
	sub      map[string]*regexp.Regexp // a list of suboption=value, separated by commas
	features *regexp.Regexp            // a list of features, separated by commas
}

// mkfsFlags lists what mkfsOptions may contain. Left out is everything that names another file or
// device, sets the UUID or label, skips or forces a safety check, or changes what the package relies on
// (journal, checksums, discard, prezeroed storage).
var mkfsFlags = map[FSType]map[string]mkfsFlag{
	Ext4: {
		"-b": {value: oneOf("1024", "2048", "4096")},
		"-i": {value: regexp.MustCompile(`^[1-9][0-9]{3,7}$`)},
		"-I": {value: oneOf("256", "512", "1024")},
		"-N": {value: number},
		"-m": {value: regexp.MustCompile(`^([0-9]|[1-4][0-9])(\.[0-9]{1,2})?$`)},
		"-T": {value: oneOf("small", "news", "largefile", "largefile4", "big", "huge")},
		"-J": {sub: map[string]*regexp.Regexp{"size": number}},
		"-E": {sub: map[string]*regexp.Regexp{
			"stride": number, "stripe_width": number, "packed_meta_blocks": oneOf("0", "1"),
			"lazy_itable_init": oneOf("0", "1"), "lazy_journal_init": oneOf("0", "1"),
			"num_backup_sb": oneOf("[0-2]"), "resize": number,
		}},
		"-O": {features: regexp.MustCompile(`^\^?(fast_commit|large_dir|inline_data|ea_inode|orphan_file|` +
			`casefold|encrypt|verity|quota|project|dir_index|extra_isize|flex_bg|huge_file|sparse_super2?)$`)},
	},
	XFS: {
		"-b": {sub: map[string]*regexp.Regexp{"size": oneOf("1024", "2048", "4096")}},
		"-s": {sub: map[string]*regexp.Regexp{"size": oneOf("512", "4096")}},
		"-d": {sub: map[string]*regexp.Regexp{
			"su": sizeText, "sw": number, "sunit": number, "swidth": number, "agcount": number, "agsize": sizeText,
		}},
		"-i": {sub: map[string]*regexp.Regexp{
			"size": oneOf("512", "1024", "2048"), "maxpct": number, "sparse": oneOf("0", "1"), "nrext64": oneOf("0", "1"),
		}},
		"-l": {sub: map[string]*regexp.Regexp{"size": sizeText, "su": sizeText, "sunit": number}},
		"-m": {sub: map[string]*regexp.Regexp{
			"reflink": oneOf("0", "1"), "rmapbt": oneOf("0", "1"), "bigtime": oneOf("0", "1"),
			"finobt": oneOf("0", "1"), "inobtcount": oneOf("0", "1"),
		}},
		"-n": {sub: map[string]*regexp.Regexp{"size": sizeText}},
	},
	Btrfs: {
		"-n":     {value: oneOf("4096", "8192", "16384", "32768", "65536", "4k", "8k", "16k", "32k", "64k")},
		"-d":     {value: oneOf("single", "dup")},
		"-m":     {value: oneOf("single", "dup")},
		"--csum": {value: oneOf("crc32c", "xxhash", "sha256", "blake2")},
		"-O": {features: regexp.MustCompile(`^\^?(no-holes|free-space-tree|block-group-tree|extref|skinny-metadata|` +
			`squota|quota)$`)},
	},
}

// mkfsArgs is a command line in the making. A mkfs program takes the last of two -E or -O lists
// (mke2fs) or refuses a suboption that is given twice (mkfs.xfs), so lists are merged.
type mkfsArgs struct {
	values   map[string]string
	subs     map[string]map[string]string
	features map[string][]string
}

// ValidateMkfsOptions checks the words of a volume's mkfs options, for example
// {"-i", "65536", "-E", "stride=16"}. An error wraps ErrInvalid and names the word.
func ValidateMkfsOptions(fsType FSType, words []string) error {
	_, err := parseMkfsOptions(fsType, words)
	return err
}

func parseMkfsOptions(fsType FSType, words []string) (mkfsArgs, error) {
	args := mkfsArgs{values: map[string]string{}, subs: map[string]map[string]string{}, features: map[string][]string{}}
	flags, ok := mkfsFlags[fsType]
	if !ok {
		return args, invalidf("filesystem type %q", fsType)
	}
	for i := 0; i < len(words); i += 2 {
		flag, known := flags[words[i]]
		if !known {
			return args, invalidf("%s mkfs option %q is not allowed", fsType, words[i])
		}
		if i+1 == len(words) {
			return args, invalidf("%s mkfs option %q needs a value", fsType, words[i])
		}
		if !args.add(words[i], words[i+1], flag) {
			return args, invalidf("%s mkfs option %s: bad value %q", fsType, words[i], words[i+1])
		}
	}
	return args, nil
}

func (a *mkfsArgs) add(name, text string, flag mkfsFlag) bool {
	if flag.value != nil {
		a.values[name] = text
		return flag.value.MatchString(text)
	}
	for item := range strings.SplitSeq(text, ",") {
		if flag.features != nil {
			a.features[name] = append(a.features[name], item)
			if !flag.features.MatchString(item) {
				return false
			}
			continue
		}
		key, value, _ := strings.Cut(item, "=")
		pattern := flag.sub[key]
		if pattern == nil || !pattern.MatchString(value) {
			return false
		}
		a.setSub(name, key, value)
	}
	return true
}

func (a *mkfsArgs) setSub(name, key, value string) {
	if a.subs[name] == nil {
		a.subs[name] = map[string]string{}
	}
	a.subs[name][key] = value
}

// defaultSub sets a suboption that the user has not set.
func (a *mkfsArgs) defaultSub(name, key, value string) {
	if _, set := a.subs[name][key]; !set {
		a.setSub(name, key, value)
	}
}

// defaultValue sets a flag that the user has not set.
func (a *mkfsArgs) defaultValue(name, value string) {
	if _, set := a.values[name]; !set {
		a.values[name] = value
	}
}

// words returns the arguments in a fixed order.
func (a *mkfsArgs) words() []string {
	lines := map[string]string{}
	maps.Copy(lines, a.values)
	for name, features := range a.features {
		lines[name] = strings.Join(features, ",")
	}
	for name, subs := range a.subs {
		var items []string
		for _, key := range slices.Sorted(maps.Keys(subs)) {
			if subs[key] == "" {
				items = append(items, key)
				continue
			}
			items = append(items, key+"="+subs[key])
		}
		lines[name] = strings.Join(items, ",")
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		words = append(words, name, lines[name])
	}
	return words
}
