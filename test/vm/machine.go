package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lamina-csi/lamina/test/vm/wire"
)

// powerOffTime is how long a machine may take to power off after its program
// ended, and dumpTime how long a hanging one may talk before it is killed.
const (
	powerOffTime = 30 * time.Second
	shutdownTime = 5 * time.Minute // with Config.Root: services are stopped first
	dumpTime     = 5 * time.Second
)

// Machine is a running virtual machine.
type Machine struct {
	cfg     Config
	dir     string // scratch, removed by Wait
	console *console
	started time.Time
	cmd     *exec.Cmd
	wire    net.Conn
	qmp     *qmp
	gone    chan struct{} // closed when QEMU has ended
	done    chan struct{} // closed when the result is known

	mu      sync.Mutex
	cut     bool
	ready   time.Duration
	exit    int
	err     error
	exited  chan struct{} // closed at the program's exit frame
	outputs map[string]*os.File
	failing map[string]bool // by serial
}

func newMachine(cfg Config, dir string) *Machine {
	if cfg.Stdout == nil {
		cfg.Stdout = io.Discard
	}
	if cfg.Stderr == nil {
		cfg.Stderr = io.Discard
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	return &Machine{
		cfg: cfg, dir: dir, exit: -1,
		console: &console{copyTo: cfg.Console},
		gone:    make(chan struct{}), done: make(chan struct{}), exited: make(chan struct{}),
		outputs: make(map[string]*os.File), failing: make(map[string]bool),
	}
}

// launch starts QEMU and the goroutines that look after it.
func (m *Machine) launch(ctx context.Context, args []string) error {
	wireConn, wireFile, err := socketPair()
	if err != nil {
		return err
	}
	defer wireFile.Close()
	qmpConn, qmpFile, err := socketPair()
	if err != nil {
		return err
	}
	defer qmpFile.Close()
	m.cmd = exec.Command(qemuProgram, args...)
	m.cmd.ExtraFiles = []*os.File{wireFile, qmpFile}
	m.cmd.Stdout = m.console
	m.cmd.Stderr = m.console
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.started = time.Now()
	if err := startLocked(m.cmd, m.gone); err != nil {
		return err
	}
	m.wire = wireConn
	m.qmp = newQMP(qmpConn)
	frames := make(chan error, 1)
	go func() { frames <- m.readFrames() }()
	if m.cfg.Stdin != nil {
		go m.sendStdin()
	}
	go m.supervise(ctx, frames)
	return nil
}

// startLocked starts a command from a thread that lives as long as the command:
// the parent-death signal is tied to the thread (prctl(2)).
func startLocked(cmd *exec.Cmd, gone chan<- struct{}) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how QEMU ends says nothing: the frames and the console do
			close(gone)
		}
	}()
	return <-started
}

func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "qemu")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// supervise waits for the end and finds out what it was.
func (m *Machine) supervise(ctx context.Context, frames <-chan error) {
	defer close(m.done)
	timer := time.NewTimer(m.cfg.Timeout)
	defer timer.Stop()
	var killed error
	select {
	case <-m.gone:
	case <-m.exited:
		killed = m.awaitPowerOff()
	case <-timer.C:
		killed = m.killHanging(fmt.Errorf("%w: %v passed", ErrTimeout, m.cfg.Timeout))
	case <-ctx.Done():
		killed = m.killHanging(fmt.Errorf("%w: %w", ErrTimeout, ctx.Err()))
	}
	<-m.gone
	frameErr := <-frames
	m.wire.Close()
	m.qmp.close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.finish(killed, frameErr)
	if err := os.RemoveAll(m.dir); err != nil && m.err == nil {
		m.err = err
	}
}

// finish sets the result. It is called once, with mu held.
func (m *Machine) finish(killed, frameErr error) {
	for _, f := range m.outputs {
		if err := f.Close(); err != nil && m.err == nil {
			m.err = err
		}
	}
	text, panicked := m.console.explain()
	switch {
	case m.cut:
		m.exit, m.err = -1, ErrPowerCut
	case panicked:
		m.exit, m.err = -1, fmt.Errorf("%w:\n%s", ErrPanic, text)
	case killed != nil:
		m.exit, m.err = -1, fmt.Errorf("%w; the console ended with:\n%s", killed, text)
	case m.err != nil:
		m.exit = -1
	case m.exit < 0:
		m.err = fmt.Errorf("%w (%v); the console ended with:\n%s", ErrStopped, frameErr, text)
	}
}

func (m *Machine) awaitPowerOff() error {
	limit := powerOffTime
	if m.cfg.Root != "" {
		limit = shutdownTime
	}
	select {
	case <-m.gone:
		return nil
	case <-time.After(limit):
		return m.killHanging(fmt.Errorf("%w: the program ended but the machine did not power off in %v", ErrTimeout, limit))
	}
}

// killHanging lets the guest say what hangs, kills it and passes err on.
func (m *Machine) killHanging(err error) error {
	if wire.Write(m.wire, wire.Dump, nil) == nil {
		select {
		case <-m.gone:
		case <-time.After(dumpTime):
		}
	}
	_ = m.cmd.Process.Kill() // it may be gone already
	return err
}

// readFrames handles the guest's frames until the connection ends.
func (m *Machine) readFrames() error {
	for {
		kind, data, err := wire.Read(m.wire)
		if err != nil {
			return err
		}
		if err := m.handle(kind, data); err != nil {
			m.mu.Lock()
			m.err = errors.Join(m.err, err)
			m.mu.Unlock()
		}
	}
}

func (m *Machine) handle(kind wire.Kind, data []byte) error {
	switch kind {
	case wire.Ready:
		m.mu.Lock()
		defer m.mu.Unlock()
		m.ready = time.Since(m.started)
	case wire.Stdout:
		_, err := m.cfg.Stdout.Write(data)
		return err
	case wire.Stderr:
		_, err := m.cfg.Stderr.Write(data)
		return err
	case wire.File:
		return m.saveOutput(data)
	case wire.Fail:
		return fmt.Errorf("the guest's init: %s", data)
	case wire.Exit:
		code, err := strconv.Atoi(string(data))
		if err != nil {
			return err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.exit = code
		close(m.exited)
	}
	return nil
}

func (m *Machine) saveOutput(data []byte) error {
	name, chunk, _ := strings.Cut(string(data), "\x00")
	host, ok := m.cfg.Outputs[name]
	if !ok {
		return fmt.Errorf("the guest sent %q, which nobody asked for", name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.outputs[name]
	if f == nil {
		if err := os.MkdirAll(filepath.Dir(host), 0o755); err != nil {
			return err
		}
		var err error
		if f, err = os.Create(host); err != nil {
			return err
		}
		m.outputs[name] = f
	}
	_, err := f.WriteString(chunk)
	return err
}

func (m *Machine) sendStdin() {
	buf := make([]byte, 4096)
	for {
		n, err := m.cfg.Stdin.Read(buf)
		if n > 0 && wire.Write(m.wire, wire.Stdin, buf[:n]) != nil {
			return // the machine is gone
		}
		if err != nil {
			_ = wire.Write(m.wire, wire.Stdin, nil)
			return
		}
	}
}

// Wait returns the program's exit code, 128 + n if signal n ended it. Any other
// end of the machine is an error: ErrTimeout, ErrPanic, ErrPowerCut, ErrStopped.
func (m *Machine) Wait() (exit int, err error) {
	<-m.done
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exit, m.err
}

// BootTime is the host's time from QEMU's start to the program's start; 0
// before that.
func (m *Machine) BootTime() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready
}
