package vm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const qemuProgram = "qemu-system-x86_64"

// The file descriptors that QEMU inherits.
const (
	wireFD = 3
	qmpFD  = 4
)

// kernelParams make a boot short and a failure final: an oops is a panic, and a
// panic ends QEMU. Emulated clocks and watchdogs on a busy host raise false
// alarms, so they are off.
var kernelParams = []string{
	"console=ttyS0", "quiet", "loglevel=4",
	"panic=-1", "oops=panic", "mitigations=off", "nokaslr",
	"random.trust_cpu=on", "tsc=reliable", "no_timer_check", "nowatchdog",
	"rcupdate.rcu_cpu_stall_suppress=1",
}

var serialForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,20}$`)

// baseArgs describe a machine without kernel and devices; clock is Config.Clock.
func baseArgs(cpus int, memory int64, clock bool) []string {
	accel := []string{"-accel", "tcg,thread=multi"}
	if clock {
		accel = []string{"-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"}
	}
	return append(accel,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35,usb=off,smbus=off,sata=off,vmport=off",
		// The plainest CPU emulates fastest; rdrand seeds the kernel's random pool at
		// once. QEMU 7.2 spoils the flags in cmpxchg16b, which Linux 6.12 uses to
		// allocate memory: one boot in four died of a double fault with it.
		"-cpu", "qemu64,+rdrand,-cx16",
		"-smp", strconv.Itoa(cpus), "-m", fmt.Sprintf("%dM", memory>>20),
		// A small firmware and a kernel that is already unpacked (kernel.go) save a
		// quarter of the boot.
		"-bios", "qboot.rom",
	)
}

func (m *Machine) qemuArgs(image, initrd string) ([]string, error) {
	memory, cpus := m.cfg.Memory, m.cfg.CPUs
	if memory == 0 {
		memory = DefaultMemory
	}
	if cpus == 0 {
		cpus = 1
	}
	if m.cfg.Clock && cpus != 1 {
		return nil, errors.New("the counting clock needs one CPU")
	}
	args := append(baseArgs(cpus, memory, m.cfg.Clock),
		"-kernel", image, "-initrd", initrd,
		"-append", strings.Join(slices.Concat(kernelParams, []string{"rdinit=/init"}, m.cfg.Kernel), " "),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=wire,fd=%d", wireFD),
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=wire,name=vm.0",
	)
	seen := make(map[string]bool)
	for i, d := range m.cfg.Disks {
		if !serialForm.MatchString(d.Serial) || seen[d.Serial] {
			return nil, fmt.Errorf("disk %d: serial %q is taken or not of the form %s", i, d.Serial, serialForm)
		}
		seen[d.Serial] = true
		diskArgs, err := m.diskArgs(i, d)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Serial, err)
		}
		args = append(args, diskArgs...)
	}
	return append(args, m.cfg.QEMU...), nil
}

// diskArgs puts each disk behind a root port of its own, so that it can be
// pulled while the machine runs.
func (m *Machine) diskArgs(i int, d Disk) ([]string, error) {
	if d.Path == "" {
		d.Path = filepath.Join(m.dir, d.Serial+".raw")
	}
	if err := makeImage(d); err != nil {
		return nil, err
	}
	flags := map[bool]string{true: "on", false: "off"}
	file := fmt.Sprintf("file-%s", d.Serial)
	args := []string{"-blockdev", fmt.Sprintf(
		"driver=file,node-name=%s,filename=%s,read-only=%s,discard=unmap,cache.no-flush=%s",
		file, escape(d.Path), flags[d.ReadOnly], flags[d.Unsafe])}
	if d.WriteLog != "" {
		if err := os.WriteFile(d.WriteLog, nil, 0o644); err != nil {
			return nil, err
		}
		args = append(args,
			"-blockdev", fmt.Sprintf("driver=file,node-name=log-%s,filename=%s", d.Serial, escape(d.WriteLog)),
			"-blockdev", fmt.Sprintf("driver=blklogwrites,node-name=logged-%s,file=%s,log=log-%s,discard=unmap", d.Serial, file, d.Serial))
		file = "logged-" + d.Serial
	}
	model, discard := "nvme", "ignore"
	if d.WriteLog != "" {
		discard = "unmap" // what a deleted volume held is lost, as on a real disk
		// QEMU 7.2's log breaks with two "write zeroes" at the same time, and with requests
		// that were merged to as many buffers as one write may have: it adds two.
		model = "virtio-blk-pci,write-zeroes=off,request-merging=off"
	}
	args = append(args,
		"-blockdev", fmt.Sprintf("driver=raw,node-name=%s,file=%s,read-only=%s,discard=%s", nodeName(d.Serial), file, flags[d.ReadOnly], discard),
		"-device", fmt.Sprintf("pcie-root-port,id=%s,chassis=%d,slot=%d", portID(i), i+1, i+1),
	)
	if d.Out {
		return args, nil
	}
	return append(args, "-device", fmt.Sprintf("%s,id=%s,serial=%s,drive=%s,bus=%s,logical_block_size=%d,physical_block_size=%d",
		model, deviceID(d.Serial), d.Serial, nodeName(d.Serial), portID(i), d.block(), d.block())), nil
}

func (d Disk) block() int {
	if d.BlockSize == 0 {
		return 512
	}
	return d.BlockSize
}

func portID(i int) string { return fmt.Sprint("port", i) }

func nodeName(serial string) string { return "disk-" + serial }
func deviceID(serial string) string { return "nvme-" + serial }

// escape doubles commas, which separate QEMU's options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func makeImage(d Disk) error {
	_, err := os.Stat(d.Path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if d.Size <= 0 {
		return fmt.Errorf("make %s: no size", d.Path)
	}
	f, err := os.Create(d.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(d.Size)
}
