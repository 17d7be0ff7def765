//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/test/vm/wire"
)

// link is the serial port to the host; send may be called by many.
type link struct {
	mu   sync.Mutex
	port *os.File
}

func (l *link) send(kind wire.Kind, data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return wire.Write(l.port, kind, data)
}

// stream sends each write as frames of one kind.
type stream struct {
	link *link
	kind wire.Kind
}

func (s stream) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		end := min(n+wire.MaxPayload, len(p))
		if err := s.link.send(s.kind, p[n:end]); err != nil {
			return n, err
		}
		n = end
	}
	return n, nil
}

// runProgram runs the program and sends its exit code: 128 + n if signal n
// ended it, as a shell says it.
func runProgram(l *link, cfg wire.Config) error {
	for _, kv := range cfg.Env {
		if k, v, ok := bytes.Cut([]byte(kv), []byte("=")); ok {
			if err := os.Setenv(string(k), string(v)); err != nil { // PATH is looked up below
				return err
			}
		}
	}
	cmd := exec.Command(cfg.Program, cfg.Args...)
	cmd.Dir = cfg.Dir
	cmd.Stdout = stream{l, wire.Stdout}
	cmd.Stderr = stream{l, wire.Stderr}
	// A daemon that the program left behind must not keep the machine up.
	cmd.WaitDelay = time.Second
	var stdin io.WriteCloser
	if cfg.Stdin {
		var err error
		if stdin, err = cmd.StdinPipe(); err != nil {
			return err
		}
	}
	if err := l.send(wire.Ready, nil); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w", cfg.Program, err)
	}
	var program atomic.Int64
	program.Store(int64(cmd.Process.Pid))
	go listen(l, stdin, &program)
	err := cmd.Wait()
	program.Store(0)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("run %s: %w", cfg.Program, err)
	}
	for _, name := range cfg.Outputs {
		if err := sendFile(l, name); err != nil {
			return err
		}
	}
	code := cmd.ProcessState.ExitCode()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	return l.send(wire.Exit, []byte(strconv.Itoa(code)))
}

func sendFile(l *link, name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("send an output file: %w", err)
	}
	head := append([]byte(name), 0)
	for first := true; first || len(data) > 0; first = false {
		n := min(len(data), wire.MaxPayload-len(head))
		if err := l.send(wire.File, append(bytes.Clone(head), data[:n]...)); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// listen serves the host's frames until the machine goes down.
func listen(l *link, stdin io.WriteCloser, program *atomic.Int64) {
	for {
		kind, data, err := wire.Read(l.port)
		if err != nil {
			return
		}
		switch kind {
		case wire.Stdin:
			if stdin == nil {
				continue
			}
			if len(data) == 0 {
				stdin.Close()
				stdin = nil
			} else if _, err := stdin.Write(data); err != nil {
				stdin = nil // the program closed it
			}
		case wire.Dump:
			dump(int(program.Load()))
		}
	}
}

// dump prints blocked tasks on the console, and lets a Go program print its
// goroutines.
func dump(pid int) {
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("w"), 0); err != nil {
		fmt.Fprintln(os.Stderr, "init: sysrq:", err)
	}
	if pid == 0 {
		return
	}
	if stack, err := os.ReadFile(fmt.Sprintf("/proc/%d/stack", pid)); err == nil {
		fmt.Fprintf(os.Stderr, "init: kernel stack of the program:\n%s", stack)
	}
	if err := unix.Kill(pid, unix.SIGQUIT); err != nil {
		fmt.Fprintln(os.Stderr, "init: SIGQUIT:", err)
	}
}
