//go:build vm

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lamina-csi/lamina/test/service"
)

// Where the Talos extension lies in the machine, as in Talos.
const (
	specFile  = "/usr/local/etc/containers/lamina-node.yaml"
	container = "/usr/local/lib/containers/lamina-node"
	nodeName  = "node-1"
	runcState = "/run/runc"
)

// process is a running agent: the service, or a pod's.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // set before done is closed
}

func start(log string, name string, args ...string) (*process, error) {
	return startIn(0, log, name, args...)
}

// startIn starts it in new namespaces (clone(2)).
func startIn(namespaces uintptr, log string, name string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	logs = append(logs, log)
	p := &process{cmd: exec.Command(name, args...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// stop is what Talos and kubelet do.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-p.done
	return p.err
}

// says waits until the process has logged a text.
func (p *process) says(ctx context.Context, text string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		log, err := os.ReadFile(p.log)
		if err != nil || bytes.Contains(log, []byte(text)) {
			return err
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("it ended (%w) without saying %q", p.err, text)
		case <-ctx.Done():
			return fmt.Errorf("it did not say %q: %w", text, ctx.Err())
		}
	}
}

// startService does what Talos does with a service spec.
func startService(s service.Spec, log string) (*process, error) {
	if err := s.MakeSources(); err != nil {
		return nil, err
	}
	config, err := s.Config(container, nodeName)
	if err != nil {
		return nil, err
	}
	return startContainer(s.Name, config, log)
}

// startContainer starts runc, which passes signals on and ends with the container.
func startContainer(name string, config *specs.Spec, log string) (*process, error) {
	bundle := filepath.Join("/run/talos", filepath.Base(log))
	if err := service.WriteBundle(bundle, config); err != nil {
		return nil, err
	}
	return start(log, "runc", "--root", runcState, "run", "--bundle", bundle, name)
}

func readSpec() (service.Spec, error) {
	text, err := os.ReadFile(specFile)
	if err != nil {
		return service.Spec{}, err
	}
	return service.Parse(text)
}

// resident is the memory of the service in bytes, and is told.
func resident(s service.Spec, when string) (int64, error) {
	out, err := run("runc", "--root", runcState, "state", s.Name)
	if err != nil {
		return 0, err
	}
	var state struct{ Pid int }
	if err := json.Unmarshal([]byte(out), &state); err != nil {
		return 0, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", state.Pid))
	if err != nil {
		return 0, err
	}
	kib := map[string]int64{}
	for line := range strings.Lines(string(status)) {
		var n int64
		key, rest, _ := strings.Cut(line, ":")
		if _, err := fmt.Sscanf(rest, "%d kB", &n); err == nil {
			kib[key] = n
		}
	}
	fmt.Printf("resident as a Talos service, %s: %.1f MiB, %.1f of it anonymous\n", when, float64(kib["VmRSS"])/1024, float64(kib["RssAnon"])/1024)
	return kib["VmRSS"] << 10, expect(kib["VmRSS"] > 0, "no VmRSS in %q", status)
}
