//go:build ignore

// Command seccomp prints containerd's default seccomp profile for a service of Talos:
// with the capabilities that are its arguments. It lies in this module because containerd
// does, and is ignored so that no version here depends on it.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func main() {
	var s specs.Spec
	s.Process = &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: os.Args[1:]}}
	text, err := json.Marshal(seccomp.DefaultProfile(&s))
	if err != nil {
		fmt.Fprintln(os.Stderr, "seccomp:", err)
		os.Exit(1)
	}
	fmt.Println(string(text))
}
