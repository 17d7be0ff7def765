package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lamina-csi/lamina/test/cluster/wire"
	vmwire "github.com/lamina-csi/lamina/test/vm/wire"
)

const (
	bootTime     = 3 * time.Minute // from power-on until init answers
	shutdownTime = 90 * time.Second
	readyTime    = 6 * time.Minute
	pollTime     = 500 * time.Millisecond
)

// Node is a virtual machine of the cluster.
type Node struct {
	cluster *Cluster
	index   int
	disks   []string
	qemu    *process // nil when the power is off
	// extension is the image of a system extension, "" for none.
	extension string
}

// Name is the node's name in Kubernetes: node-0, node-1, ...
func (n *Node) Name() string { return fmt.Sprintf("node-%d", n.index) }

// Address is the node's address in the cluster's network.
func (n *Node) Address() string { return nodeAddress(n.index) }

// Disks are the host paths of the raw images of its NVMe disks. A machine that
// is off may be given changed ones.
func (n *Node) Disks() []string { return n.disks }

// DiskSerial is the serial number that the node sees on a disk.
func (n *Node) DiskSerial(i int) string { return fmt.Sprintf("n%d-disk%d", n.index, i) }

func (n *Node) file(suffix string) string {
	return filepath.Join(n.cluster.dir, n.Name()+"."+suffix)
}

// Running says whether the power is on.
func (n *Node) Running() bool {
	if n.qemu == nil {
		return false
	}
	select {
	case <-n.qemu.gone:
		return false
	default:
		return true
	}
}

// Boot switches the power on and waits until init answers; see WaitReady for
// the rest. The disks are as they were left.
func (n *Node) Boot(ctx context.Context) error {
	if n.Running() {
		return fmt.Errorf("boot %s: its power is on", n.Name())
	}
	args, err := n.qemuArgs()
	if err != nil {
		return err
	}
	if n.qemu, err = startProcess(n.cluster.net, n.file("console"), nil, args...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	for {
		_, last := n.Exec(ctx, "true")
		if last == nil {
			return nil
		}
		select {
		case <-n.qemu.gone:
			return fmt.Errorf("boot %s: the machine stopped; its console ended with:\n%s", n.Name(), n.Console())
		case <-ctx.Done():
			return fmt.Errorf("boot %s: %w: %w; its console ended with:\n%s", n.Name(), ctx.Err(), last, n.Console())
		case <-time.After(pollTime):
		}
	}
}

// CutPower stops the machine between two instructions. What the guest had not
// written to its disks is lost.
func (n *Node) CutPower() {
	if n.qemu != nil {
		n.qemu.kill()
		n.qemu = nil
	}
}

// Shutdown has init end everything, unmount and switch off, and waits for it.
func (n *Node) Shutdown(ctx context.Context) error {
	if !n.Running() {
		return fmt.Errorf("shut %s down: its power is off", n.Name())
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownTime)
	defer cancel()
	// Init ends this program as all others, perhaps before its end is told, and then
	// nobody closes the connection: what counts is that the machine goes.
	told := make(chan error, 1)
	go func() {
		_, err := n.Exec(ctx, "kill", "-TERM", "1")
		told <- err
	}()
	select {
	case <-n.qemu.gone:
		n.qemu = nil
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shut %s down: it is still up: %w; its console ended with:\n%s",
			n.Name(), errors.Join(ctx.Err(), <-told), n.Console())
	}
}

// SetExtension gives the node's next boots a system extension in Talos' format, as
// Talos' installer does: rootfs is the host path of the extension's directory of that
// name, "" for none. Its files are merged into /usr/local, and its services run.
func (n *Node) SetExtension(ctx context.Context, rootfs string) error {
	if n.extension = ""; rootfs == "" {
		return nil
	}
	image := n.file("extension.squashfs")
	out, err := exec.CommandContext(ctx, "mksquashfs", rootfs, image, "-all-root", "-noappend", "-no-progress", "-quiet").CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the extension of %s: mksquashfs: %w: %s", n.Name(), err, out)
	}
	n.extension = image
	return nil
}

// Reboot is Shutdown and Boot.
func (n *Node) Reboot(ctx context.Context) error {
	if err := n.Shutdown(ctx); err != nil {
		return err
	}
	return n.Boot(ctx)
}

// Console returns the end of what the kernel and init wrote in all boots.
func (n *Node) Console() string {
	data, err := os.ReadFile(n.file("console"))
	if err != nil {
		return err.Error()
	}
	data = bytes.ReplaceAll(data, []byte("\r"), nil)
	return string(data[max(0, len(data)-16<<10):])
}

// WaitReady waits until this boot of the node is Ready: the status of an
// earlier boot, which outlives a power cut for a while, does not count.
func (n *Node) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	boot, err := n.Exec(ctx, "cat", "/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	boot = strings.TrimSpace(boot)
	for {
		node, err := n.cluster.client.CoreV1().Nodes().Get(ctx, n.Name(), metav1.GetOptions{})
		state := "it is not registered"
		if err == nil {
			if state = notReady(node, boot); state == "" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %s", n.Name(), errors.Join(ctx.Err(), err), state)
		case <-time.After(pollTime):
		}
	}
}

// notReady says why not, or nothing.
func notReady(node *corev1.Node, boot string) string {
	if node.Status.NodeInfo.BootID != boot {
		return "it has not reported since it booted"
	}
	for _, cond := range node.Status.Conditions {
		if cond.Type != corev1.NodeReady {
			continue
		}
		if cond.Status == corev1.ConditionTrue {
			return ""
		}
		return cond.Reason + ": " + cond.Message
	}
	return "it has not reported a condition"
}

// ExitError is how a program ended that a node ran.
type ExitError struct {
	Args   []string
	Code   int // 128 + n if signal n ended it
	Stderr string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit code %d: %s", strings.Join(e.Args, " "), e.Code, e.Stderr)
}

// Exec runs a program on the node as root and returns its standard output. An
// exit code other than 0 is an [ExitError]. It ends with ctx.
func (n *Node) Exec(ctx context.Context, args ...string) (string, error) {
	return n.ExecInput(ctx, nil, args...)
}

// ExecInput is Exec with a standard input, of less than 40 KiB.
func (n *Node) ExecInput(ctx context.Context, stdin []byte, args ...string) (string, error) {
	conn, err := n.cluster.net.dial(ctx, "tcp", fmt.Sprintf("%s:%d", n.Address(), wire.ExecPort))
	if err != nil {
		return "", fmt.Errorf("reach %s: %w", n.Name(), err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	out, err := exchange(conn, wire.Run{Args: args, Stdin: stdin})
	if err != nil {
		err = fmt.Errorf("on %s: %w", n.Name(), errors.Join(ctx.Err(), err))
	}
	return out, err
}

func exchange(conn net.Conn, run wire.Run) (string, error) {
	data, err := json.Marshal(run)
	if err != nil {
		return "", err
	}
	if err := vmwire.Write(conn, wire.Request, data); err != nil {
		return "", err
	}
	var stdout, stderr strings.Builder
	for {
		kind, data, err := vmwire.Read(conn)
		if err != nil {
			return stdout.String(), fmt.Errorf("run %s: %w", strings.Join(run.Args, " "), err)
		}
		switch kind {
		case vmwire.Stdout:
			stdout.Write(data)
		case vmwire.Stderr:
			stderr.Write(data)
		case vmwire.Fail:
			return "", fmt.Errorf("run %s: %s", strings.Join(run.Args, " "), data)
		case vmwire.Exit:
			code, err := strconv.Atoi(string(data))
			if err == nil && code != 0 {
				err = &ExitError{Args: run.Args, Code: code, Stderr: stderr.String()}
			}
			return stdout.String(), err
		}
	}
}
