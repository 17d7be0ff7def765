package vm

import (
	"fmt"
	"os/exec"
	"strings"

	"github.com/lamina-csi/lamina/deploy/image/extension"
)

// HostPackages are the Debian packages that the rig calls on the host, and those that
// OS extensions are built with.
var HostPackages = append([]string{"qemu-system-x86", "dpkg", "apt", "xz-utils"}, extension.HostPackages...)

// CheckInstalled says what the host lacks, and the command that installs it.
func CheckInstalled() error {
	for _, program := range []string{qemuProgram, "dpkg-deb", "xz", "go", "patchelf", "mksquashfs", "mkfs.erofs"} {
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
