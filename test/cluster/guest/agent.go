//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"

	"github.com/lamina-csi/lamina/test/cluster/wire"
	vmwire "github.com/lamina-csi/lamina/test/vm/wire"
)

// serve runs programs for the host, one for each connection.
func serve() {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", wire.ExecPort))
	if err != nil {
		fmt.Fprintln(os.Stderr, "init: listen for the host:", err)
		return
	}
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "init: accept:", err)
			return
		}
		go func() {
			defer c.Close()
			if err := handle(c); err != nil {
				// The host has gone: nobody is left to hear it.
				_ = vmwire.Write(c, vmwire.Fail, []byte(err.Error()))
			}
		}()
	}
}

func handle(c net.Conn) error {
	kind, data, err := vmwire.Read(c)
	if err != nil {
		return err
	}
	var run wire.Run
	if err := json.Unmarshal(data, &run); err != nil || kind != wire.Request || len(run.Args) == 0 {
		return fmt.Errorf("bad request of kind %q: %w", kind, err)
	}
	var mu sync.Mutex
	cmd := exec.Command(run.Args[0], run.Args[1:]...)
	cmd.Stdin = bytes.NewReader(run.Stdin)
	cmd.Stdout = &stream{c, &mu, vmwire.Stdout}
	cmd.Stderr = &stream{c, &mu, vmwire.Stderr}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { // the host ends the program by hanging up
		if _, err := io.Copy(io.Discard, c); err == nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}()
	_ = cmd.Wait() // the state says how it ended
	code := cmd.ProcessState.ExitCode()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	mu.Lock()
	defer mu.Unlock()
	return vmwire.Write(c, vmwire.Exit, []byte(strconv.Itoa(code)))
}

// stream sends each write as frames of one kind.
type stream struct {
	conn net.Conn
	mu   *sync.Mutex
	kind vmwire.Kind
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < len(p) {
		end := min(n+vmwire.MaxPayload, len(p))
		if err := vmwire.Write(s.conn, s.kind, p[n:end]); err != nil {
			return n, err
		}
		n = end
	}
	return n, nil
}
