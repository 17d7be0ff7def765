//go:build vm

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// This program stands in for lvm under this name. The file killAt says which lvm
// command is to be killed, and before which of the system calls that change
// something; killed says afterwards what that call was.
const (
	killedLVM = "/run/killed-lvm"
	realLVM   = "/usr/sbin/lvm"
	killAt    = "/run/kill-at"
	killed    = "/run/killed"
)

// runLVM is lvm, killed or not.
func runLVM() error {
	var command string
	var at int
	if text, err := os.ReadFile(killAt); err == nil {
		if _, err := fmt.Sscan(string(text), &command, &at); err != nil {
			return err
		}
	}
	if len(os.Args) < 2 || os.Args[1] != command {
		return unix.Exec(realLVM, append([]string{"lvm"}, os.Args[1:]...), os.Environ())
	}
	if err := os.Remove(killAt); err != nil { // the next one lives
		return err
	}
	runtime.LockOSThread() // a process is traced by a thread
	cmd := exec.Command(realLVM, os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	what, status, err := killBefore(cmd.Process.Pid, at)
	if err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	if status.Exited() {
		os.Exit(status.ExitStatus())
	}
	if err := os.WriteFile(killed, []byte(what), 0o600); err != nil {
		return err
	}
	return unix.Kill(os.Getpid(), status.Signal()) // as if it were lvm
}

// killBefore kills a traced process at the entry of the at-th of its calls that
// change something, which the kernel then does not carry out (ptrace_report_syscall()
// in include/linux/ptrace.h), and returns how it ended.
func killBefore(pid, at int) (what string, status syscall.WaitStatus, err error) {
	wait := func() error {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		return err
	}
	if err := wait(); err != nil { // after its exec
		return "", status, err
	}
	if err := syscall.PtraceSetOptions(pid, syscall.PTRACE_O_TRACESYSGOOD); err != nil {
		return "", status, err
	}
	const syscallStop = syscall.SIGTRAP | 0x80 // by that option
	entry := true
	for signal := 0; ; {
		if err := syscall.PtraceSyscall(pid, signal); err != nil {
			return "", status, err
		}
		if err := wait(); err != nil || status.Exited() || status.Signaled() {
			return "", status, err
		}
		if signal = 0; status.StopSignal() != syscallStop {
			signal = int(status.StopSignal())
			continue
		}
		if entry {
			var regs syscall.PtraceRegs
			if err := syscall.PtraceGetRegs(pid, &regs); err != nil {
				return "", status, err
			}
			if what = change(pid, &regs); what != "" {
				at--
			}
		}
		if entry && what != "" && at == 0 {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				return "", status, err
			}
			return what, status, wait()
		}
		entry = !entry
	}
}

// From include/uapi/linux/dm-ioctl.h.
var dmCalls = map[uint64]string{3: "create", 4: "remove", 5: "rename", 6: "suspend", 9: "load", 10: "clear", 14: "message"}

const (
	dmType       = 0xfd
	dmDataStart  = 16 // offsets in struct dm_ioctl
	dmFlags      = 28
	dmDev        = 40
	dmName       = 48
	dmSuspendBit = 1 << 1
	dmTargetMsg  = 8 // offset of the text in struct dm_target_msg
)

// change names what a system call would change; "" if that is nothing that outlives
// the process. Its locks do not.
func change(pid int, r *syscall.PtraceRegs) string {
	switch r.Orig_rax {
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV:
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, r.Rdi))
		if err == nil && strings.HasPrefix(path, "/dev/nvme") {
			return "write " + path
		}
	case unix.SYS_IOCTL:
		call := dmCalls[r.Rsi&0xff]
		if r.Rsi>>8&0xff != dmType || call == "" {
			return ""
		}
		if flags := peek(pid, r.Rdx+dmFlags, 4); call == "suspend" && len(flags) > 0 && flags[0]&dmSuspendBit == 0 {
			call = "resume"
		}
		if call == "message" {
			if start := peek(pid, r.Rdx+dmDataStart, 4); start != nil {
				call += " " + text(pid, r.Rdx+uint64(binary.NativeEndian.Uint32(start))+dmTargetMsg)
			}
		}
		return "dm " + call + " " + dmOf(pid, r.Rdx)
	case unix.SYS_UNLINK, unix.SYS_RENAME, unix.SYS_MKNOD, unix.SYS_SYMLINK, unix.SYS_MKDIR:
		return pathCall(r.Orig_rax, text(pid, r.Rdi))
	case unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_MKNODAT, unix.SYS_MKDIRAT:
		return pathCall(r.Orig_rax, text(pid, r.Rsi))
	case unix.SYS_EXIT_GROUP:
		return "exit"
	}
	return ""
}

// dmOf is the device that struct dm_ioctl at addr is about.
func dmOf(pid int, addr uint64) string {
	if name := text(pid, addr+dmName); name != "" {
		return name
	}
	dev := peek(pid, addr+dmDev, 8)
	if dev == nil {
		return "?"
	}
	name, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/dm/name", unix.Major(binary.NativeEndian.Uint64(dev)), unix.Minor(binary.NativeEndian.Uint64(dev))))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(name))
}

func pathCall(nr uint64, path string) string {
	if strings.HasPrefix(path, "/run/lock/") {
		return ""
	}
	return fmt.Sprintf("call %d %s", nr, path)
}

func peek(pid int, addr uint64, n int) []byte {
	buf := make([]byte, n)
	if _, err := syscall.PtracePeekData(pid, uintptr(addr), buf); err != nil {
		return nil
	}
	return buf
}

// text is a string of the process.
func text(pid int, addr uint64) string {
	s, _, _ := bytes.Cut(peek(pid, addr, 128), []byte{0})
	return string(s)
}
