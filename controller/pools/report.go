package pools

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"github.com/lamina-csi/lamina/driver/link"
)

// The reasons of a condition. The first one alone goes with status True.
const (
	reasonOk             = "Ok"
	reasonFull           = "Full"
	reasonMissingDisk    = "MissingDisk"
	reasonDegraded       = "Degraded"
	reasonReadOnly       = "ReadOnly"
	reasonStuck          = "Stuck"
	reasonError          = "Error"
	reasonUnknownProfile = "UnknownProfile"
	reasonPending        = "Pending"  // status Unknown
	reasonUnlinked       = "Unlinked" // status Unknown
)

// reasons are those of the healths in link.PoolStatus.
var reasons = map[string]string{
	"ok": reasonOk, "full": reasonFull, "missing-disk": reasonMissingDisk,
	"degraded": reasonDegraded, "readonly": reasonReadOnly, "stuck": reasonStuck, "error": reasonError,
}

// report is what a condition shall say.
type report struct {
	status  corev1.ConditionStatus
	reason  string
	trouble string   // what is wrong; its percentages move without being news
	refused []string // disks, with the reasons
	facts   string   // what the pool consists of
}

// Bounds of what one pool may put into a Node object.
const (
	maxText    = 500 // bytes of one text from an agent
	maxWord    = 100 // bytes of a path or a name from an agent
	maxDisks   = 16  // of a pool that are named
	maxRefused = 8   // disks
)

// subject is a pool to be told of, and what was told before.
type subject struct {
	pool      string
	wanted    bool                  // a label asks for it
	complaint string                // that label names no profile
	old       *corev1.NodeCondition // nil: none
}

// describe tells of a pool as its agent reports it; st may be nil with a
// complaint.
func describe(s subject, st *link.PoolStatus) *report {
	r := &report{status: corev1.ConditionFalse, reason: reasons[st.GetHealth()]}
	if r.reason == "" {
		r.reason = reasonError
	}
	if st.GetError() != "" && r.reason == reasonOk {
		r.reason = reasonError
	}
	text, failure := clip(st.GetText(), maxText), clip(st.GetError(), maxText)
	if s.complaint != "" {
		// The agent was told nonsense on purpose.
		r.reason, failure = reasonUnknownProfile, s.complaint
	}
	if r.reason == reasonOk {
		r.status = corev1.ConditionTrue
	}
	switch {
	case failure == "" || strings.Contains(text, failure):
		r.trouble = text
	case text == "" || strings.Contains(failure, text):
		r.trouble = failure
	default:
		r.trouble = failure + "; " + text
	}
	r.refused = refusals(st)
	if st == nil && s.old != nil && s.old.Reason == r.reason {
		// What the agent said of it before is still the best that is known.
		if _, facts, ok := strings.Cut(s.old.Message, s.complaint); ok {
			r.trouble = s.complaint + facts
			return r
		}
	}
	// A pool whose use goes to and fro at a step keeps the step that is written.
	for _, off := range []int{0, -2, +2} {
		r.facts = s.facts(st, off)
		if s.old != nil && r.same(*s.old) {
			return r
		}
	}
	r.facts = s.facts(st, 0)
	return r
}

func refusals(st *link.PoolStatus) []string {
	var out []string
	for i, d := range st.GetRefused() {
		if i == maxRefused {
			return append(out, fmt.Sprintf("and %d more", len(st.GetRefused())-i))
		}
		out = append(out, fmt.Sprintf("%s is refused: %s", clip(d.GetDisk(), maxWord), clip(d.GetReason(), maxText)))
	}
	return out
}

// facts tells size, disks and use; off is added to the use, in percent.
func (s subject) facts(st *link.PoolStatus, off int) string {
	var out []string
	if st.GetSize() > 0 {
		disks := "1 disk"
		if n := len(st.GetDisks()); n != 1 {
			disks = fmt.Sprintf("%d disks", n)
		}
		if len(st.GetDisks()) > 0 {
			disks += " (" + diskNames(st.GetDisks()) + ")"
		}
		out = append(out, fmt.Sprintf("%s on %s", human(st.GetSize()), disks), use(int(percent(st))+off), "volume group "+clip(st.GetVg(), maxWord))
	}
	if !s.wanted {
		out = append(out, fmt.Sprintf("it takes no new volumes: no label %s%s asks for it", link.PoolLabelPrefix, s.pool))
	}
	return strings.Join(out, ", ")
}

func percent(st *link.PoolStatus) int64 {
	// Sizes reach the exabytes: multiplied by 100 they would not fit.
	return st.GetUsed() / max(1, st.GetSize()/100)
}

// use tells the use in steps of ten, so that a node is not written at each percent.
func use(percent int) string {
	step := min(max(percent, 0)/10*10, 90)
	if step == 0 {
		return "under 10 % used"
	}
	return fmt.Sprintf("over %d %% used", step)
}

// human gives a size with its largest unit: 1.8 TiB.
func human(bytes int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	value, unit := float64(bytes), 0
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	if value < 10 && unit > 0 {
		return fmt.Sprintf("%.1f %s", value, units[unit])
	}
	return fmt.Sprintf("%.0f %s", value, units[unit])
}

// unknown is for a pool that cannot be seen now. It keeps what was known.
func unknown(reason, why string, old *corev1.NodeCondition) *report {
	r := &report{status: corev1.ConditionUnknown, reason: reason, trouble: why}
	if old == nil {
		return r
	}
	r.facts = old.Message
	if old.Status == corev1.ConditionUnknown {
		_, r.facts, _ = strings.Cut(old.Message, lastSeen)
	}
	if r.facts != "" {
		r.trouble += lastSeen + r.facts
		r.facts = ""
	}
	return r
}

const lastSeen = "; when it was last seen: "

// message is the text that kubectl describe node shows.
func (r *report) message() string {
	var parts []string
	if r.trouble != "" {
		parts = append(parts, r.trouble)
	}
	if rest := r.rest(); rest != "" {
		parts = append(parts, rest)
	}
	return strings.Join(parts, "; ")
}

func (r *report) rest() string {
	parts := slices.Clone(r.refused)
	if r.facts != "" {
		parts = append([]string{r.facts}, parts...)
	}
	return strings.Join(parts, "; ")
}

var percentage = regexp.MustCompile(`[0-9]+%`)

// blurred is a text without its percentages.
func blurred(s string) string { return percentage.ReplaceAllString(s, "%") }

// same reports whether a condition says this already. "data is 91% full" is no
// news after "data is 90% full".
func (r *report) same(c corev1.NodeCondition) bool {
	if c.Status != r.status || c.Reason != r.reason {
		return false
	}
	return c.Message == r.message() || strings.HasSuffix(c.Message, r.rest()) && blurred(c.Message) == blurred(r.message())
}

// event is one to record on the node.
type event struct{ kind, reason, text string }

// events are what is new since the condition before. That condition is the memory:
// after a restart nothing is told again.
func (r *report) events(pool string, old *corev1.NodeCondition) []event {
	before := corev1.NodeCondition{}
	if old != nil {
		before = *old
	}
	kind, reason := corev1.EventTypeWarning, "Pool"+r.reason
	switch r.reason {
	case reasonOk:
		kind = corev1.EventTypeNormal
	case reasonUnknownProfile:
		reason = reasonUnknownProfile
	}
	var out []event
	changed := before.Reason != r.reason
	if r.reason == reasonError || r.reason == reasonUnknownProfile {
		changed = changed || !strings.Contains(blurred(before.Message), blurred(r.trouble))
	}
	if changed && r.reason != reasonPending {
		text := r.trouble
		if text == "" {
			text = r.facts
		}
		out = append(out, event{kind, reason, "pool " + pool + ": " + text})
	}
	for _, disk := range r.refused {
		if !strings.Contains(before.Message, disk) {
			out = append(out, event{corev1.EventTypeNormal, "DiskRefused", "pool " + pool + ": " + disk})
		}
	}
	return out
}

// diskNames lists disks, not all if they are many.
func diskNames(disks []string) string {
	var out []string
	for i, d := range disks {
		if i == maxDisks {
			out = append(out, fmt.Sprintf("and %d more", len(disks)-i))
			break
		}
		out = append(out, clip(d, maxWord))
	}
	return strings.Join(out, ", ")
}

// clip bounds a text from an agent, and takes the control characters out of it: it
// is shown on terminals.
func clip(s string, most int) string {
	cut := len(s) > most
	if cut {
		s = s[:most]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, s)
	if cut {
		s += "…"
	}
	return s
}
