package cluster

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// process is a program in the cluster's network. It dies with this process.
type process struct {
	cmd  *exec.Cmd
	gone chan struct{} // closed when it has ended
	log  string        // host path of its output
}

// startProcess starts a program; output, if not nil, gets its output beside the
// log file.
func startProcess(n *network, log string, output io.Writer, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(args[0], args[1:]...), gone: make(chan struct{}), log: log}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if output != nil {
		both := io.MultiWriter(f, output)
		p.cmd.Stdout, p.cmd.Stderr = both, both
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	go func() {
		defer f.Close()
		// The parent-death signal is tied to the thread (prctl(2)), so it lives as
		// long as the program, and ends with it.
		runtime.LockOSThread()
		if err := n.enter(p.cmd.Start); err != nil {
			started <- err
			return
		}
		started <- nil
		_ = p.cmd.Wait() // whoever waits on gone looks at the state or the log
		close(p.gone)
	}()
	if err := <-started; err != nil {
		f.Close()
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	return p, nil
}

// kill ends the program at once and waits for its end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone already
	<-p.gone
}

// tail returns the end of the program's output.
func (p *process) tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-4096):])
}
