package vm

import (
	"fmt"
	"os/exec"
	"strings"
)

// HostPackages are the Debian packages that the rig calls on the host.
var HostPackages = []string{"qemu-system-x86", "dpkg", "apt", "xz-utils"}

// CheckInstalled says what the host lacks, and the command that installs it.
func CheckInstalled() error {
	for _, program := range []string{qemuProgram, "dpkg-deb", "xz", "go"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is not installed: run `go run ./test/vm/cmd/vm install`, "+
				"or as root: %s", program, strings.Join(InstallCommand(), " "))
		}
	}
	return nil
}

// InstallCommand installs HostPackages; it must run as root.
func InstallCommand() []string {
	return append([]string{"apt-get", "install", "--yes", "--no-install-recommends"}, HostPackages...)
}
