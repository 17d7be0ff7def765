package extension

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

// escape is percent-encoding as package URLs have it; Debian's names and versions need
// no other.
func escape(s string) string { return strings.ReplaceAll(s, "+", "%2B") }

// spdx lists the packages of the userland (SPDX 2.3).
func spdx(r Release) []byte {
	type ref struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	type sum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	type pkg struct {
		ID           string `json:"SPDXID"`
		Name         string `json:"name"`
		Version      string `json:"versionInfo"`
		Supplier     string `json:"supplier"`
		Download     string `json:"downloadLocation"`
		Checksums    []sum  `json:"checksums,omitempty"`
		ExternalRefs []ref  `json:"externalRefs,omitempty"`
	}
	type relation struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
	doc := struct {
		Version      string         `json:"spdxVersion"`
		License      string         `json:"dataLicense"`
		ID           string         `json:"SPDXID"`
		Name         string         `json:"name"`
		Namespace    string         `json:"documentNamespace"`
		CreationInfo map[string]any `json:"creationInfo"`
		Packages     []pkg          `json:"packages"`
		Relations    []relation     `json:"relationships"`
	}{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: Name,
		Namespace: fmt.Sprintf("https://lamina.dev/spdx/%s-%s-%s", Name, r.Version, r.Arch),
		CreationInfo: map[string]any{
			"created":  bundle.Epoch.Format("2006-01-02T15:04:05Z"),
			"creators": []string{"Tool: lamina-image"},
		},
	}
	add := func(p pkg, how string) {
		doc.Packages = append(doc.Packages, p)
		doc.Relations = append(doc.Relations, relation{"SPDXRef-DOCUMENT", how, p.ID})
	}
	add(pkg{ID: "SPDXRef-" + Name, Name: Name, Version: r.Version,
		Supplier: "Organization: Lamina", Download: "https://github.com/lamina-csi/lamina"}, "DESCRIBES")
	for _, p := range r.Packages {
		add(pkg{
			ID: "SPDXRef-deb-" + strings.ReplaceAll(p.Name, "+", "-"), Name: p.Name, Version: p.Version,
			Supplier: "Organization: Debian", Download: "NOASSERTION",
			Checksums: []sum{{"SHA256", p.SHA256}},
			ExternalRefs: []ref{{"PACKAGE-MANAGER", "purl",
				fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s&distro=trixie", escape(p.Name), escape(p.Version), r.Arch)}},
		}, "CONTAINS")
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(doc); err != nil { // no type in it can fail
		panic(err)
	}
	return b.Bytes()
}
