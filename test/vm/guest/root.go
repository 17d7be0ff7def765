//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/test/vm/wire"
)

const systemd = "/usr/lib/systemd/systemd"

// unit runs the program on a root of its own; then the host shuts down.
const unit = `[Unit]
Description=The program of the test
SuccessAction=poweroff
FailureAction=poweroff

[Service]
Type=exec
ExecStart=` + wire.HostDir + `/init ` + wire.RunArg + `
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
`

// switchRoot starts the systemd of the root's disk in our place, as an initramfs does.
// The root stays as it is: what we add lies in /run.
func switchRoot(l *link, cfg wire.Config) error {
	const root = "/sysroot"
	file, err := matching("/sys/block/nvme*/device/serial", cfg.Root)
	if err != nil {
		return err
	}
	if file == "" {
		return fmt.Errorf("no disk %s for the root", cfg.Root)
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	dev := "/dev/" + strings.Split(file, "/")[3]
	if err := unix.Mount(dev, root, "ext4", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount the root: %w", err)
	}
	if err := addService(cfg); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte("/sbin/modprobe\n"), 0); err != nil {
		return err
	}
	if err := l.port.Close(); err != nil { // one process may have it open
		return err
	}
	if err := unix.Unmount("/tmp", 0); err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(dir, root+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return fmt.Errorf("start systemd: %w", unix.Exec(systemd, []string{systemd}, nil))
}

// addService puts ourselves, the program and the unit where systemd finds them.
func addService(cfg wire.Config) error {
	const units = "/run/systemd/system"
	wanted := filepath.Join(units, "multi-user.target.wants")
	for _, dir := range []string{wire.HostDir, wanted} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	program := filepath.Join(wire.HostDir, filepath.Base(cfg.Program))
	if err := errors.Join(copyProgram(program, cfg.Program), copyProgram(wire.HostDir+"/init", "/init")); err != nil {
		return err
	}
	cfg.Program = program
	data, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(wire.HostDir, filepath.Base(wire.ConfigPath)), data, 0o644),
		os.WriteFile(filepath.Join(units, "vm.service"), []byte(unit), 0o644),
		os.Symlink("../vm.service", filepath.Join(wanted, "vm.service")),
	)
}

func copyProgram(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// runService is the service.
func runService() error {
	data, err := os.ReadFile(filepath.Join(wire.HostDir, filepath.Base(wire.ConfigPath)))
	if err != nil {
		return err
	}
	var cfg wire.Config
	if err := json.Unmarshal(data, &cfg); err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	l := &link{port: port}
	if err := runProgram(l, cfg); err != nil {
		return errors.Join(err, l.send(wire.Fail, []byte(err.Error())))
	}
	return nil
}
