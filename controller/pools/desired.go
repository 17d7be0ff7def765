package pools

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/lamina-csi/lamina/driver/link"
)

// poolLabels are the labels that ask for pools: profiles by pool.
func poolLabels(n *corev1.Node) map[string]string {
	out := map[string]string{}
	for key, value := range n.Labels {
		if pool, ok := strings.CutPrefix(key, link.PoolLabelPrefix); ok {
			out[pool] = value
		}
	}
	return out
}

// poolConditions are the conditions that tell of pools, by pool.
func poolConditions(n *corev1.Node) map[string]corev1.NodeCondition {
	out := map[string]corev1.NodeCondition{}
	for _, c := range n.Status.Conditions {
		if pool, ok := strings.CutPrefix(string(c.Type), link.PoolLabelPrefix); ok {
			out[pool] = c
		}
	}
	return out
}

// want is a pool that a label asks for.
type want struct {
	profile   string
	text      string // the profile in YAML; "": built in
	complaint string // there is no such profile
}

// builtin is the profile that needs no ConfigMap.
const builtin = "nvme"

// wants are the pools that labels ask for. known is false while the profiles have
// never been read: then nothing is set.
func (p *Pools) wants(labels map[string]string) (out map[string]want, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out = map[string]want{}
	for pool, profile := range labels {
		w := want{profile: profile}
		text, ok := p.profiles[profile]
		switch {
		case ok:
			w.text = text
		case profile != builtin && p.profiles != nil:
			names := slices.Sorted(maps.Keys(p.profiles))
			if !slices.Contains(names, builtin) {
				names = append(names, builtin)
			}
			w.complaint = fmt.Sprintf("the label %s%s=%s names no profile; there are %s; nothing was changed", link.PoolLabelPrefix, pool, profile, strings.Join(names, ", "))
		}
		out[pool] = w
	}
	return out, p.profiles != nil
}

// desired is what the agent is told, sorted by pool. A pool without a profile is
// in it: left out, it would no longer be wanted. Its text is no profile, so that
// the agent leaves it as it is and reports an error.
func desired(wants map[string]want) []*link.Pool {
	out := []*link.Pool{}
	for _, pool := range slices.Sorted(maps.Keys(wants)) {
		w := wants[pool]
		text := w.text
		if w.complaint != "" {
			text = fmt.Sprintf("there is no profile %q", w.profile)
		}
		out = append(out, &link.Pool{Name: pool, Profile: w.profile, Text: text})
	}
	return out
}
