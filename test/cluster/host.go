package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/lamina-csi/lamina/test/vm"
)

// HostPackages are the Debian packages that the rig calls on the host.
var HostPackages = slices.Concat(vm.HostPackages, []string{"qemu-utils", "iproute2", "e2fsprogs", "coreutils", "squashfs-tools"})

// InstallCommand installs HostPackages; it must run as root.
func InstallCommand() []string {
	return append([]string{"apt-get", "install", "--yes", "--no-install-recommends"}, HostPackages...)
}

// CheckHost says what the host lacks, and the command that installs it.
func CheckHost() error {
	if os.Geteuid() != 0 {
		return errors.New("the test cluster needs root, for its network namespace")
	}
	for _, program := range []string{"qemu-system-x86_64", "qemu-img", "ip", "mke2fs", "mksquashfs", "dpkg-deb", "xz", "chroot", "nice"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is not installed: run `go run ./test/cluster/cmd/cluster install`, "+
				"or as root: %s", program, strings.Join(InstallCommand(), " "))
		}
	}
	return nil
}
