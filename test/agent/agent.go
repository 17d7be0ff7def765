// Package agent runs lamina-node as a child process and talks CSI to it, for the
// tests and the demonstration on a real kernel.
package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lamina-csi/lamina/driver/link"
)

// Options of [Start].
type Options struct {
	Program string // lamina-node
	Dir     string // kubelet's directory; made if missing
	Pools   string // text of the pools file; empty: the caller applies them
	Node    string // node name; default node-1
	LVM     string // the lvm program; default the system's

	Userland string // whose programs are used; default the system's
}

// Agent is a running lamina-node.
type Agent struct {
	csi.IdentityClient
	csi.ControllerClient
	csi.NodeClient
	csi.GroupControllerClient
	Pools link.PoolsClient

	KubeletDir string
	Socket     string
	LogFile    string // all that agents of this directory wrote, appended

	cmd  *exec.Cmd
	conn *grpc.ClientConn
	done chan struct{}
	err  error // of the process; set before done is closed
}

// Command is an lvm command that the agent ran.
type Command struct {
	Name string        `json:"command"`
	Args []string      `json:"args"`
	Took time.Duration `json:"took"`
	Exit int           `json:"exit"`
}

// String is the command as one would type it, without --devices and tags.
func (c Command) String() string {
	var out []string
	for i := 0; i < len(c.Args); i++ {
		if c.Args[i] == "--devices" || c.Args[i] == "--addtag" || c.Args[i] == "--deltag" {
			i++
			continue
		}
		out = append(out, c.Args[i])
	}
	return c.Name + " " + strings.Join(out, " ")
}

// Start runs the agent and returns when it is ready: it has looked at the disks
// once and made the pools that it could.
func Start(ctx context.Context, o Options) (*Agent, error) {
	if o.Node == "" {
		o.Node = "node-1"
	}
	registry := filepath.Join(o.Dir, "plugins_registry")
	for _, d := range []string{registry, filepath.Dir(At(o.Dir).Socket)} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return nil, err
		}
	}
	args := []string{"--debug", "--kubelet-dir", o.Dir, "--node-name", o.Node}
	if o.Pools != "" {
		pools := filepath.Join(o.Dir, "pools.yaml")
		if err := os.WriteFile(pools, []byte(o.Pools), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--pools", pools)
	}
	if o.LVM != "" {
		args = append(args, "--lvm", o.LVM)
	}
	if o.Userland != "" {
		args = append(args, "--userland", o.Userland)
	}
	a := At(o.Dir)
	a.cmd = exec.Command(o.Program, args...)
	log, err := os.OpenFile(a.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// A file, not a pipe: what the agent wrote before it answered is there when
	// the answer is.
	a.cmd.Stderr = log
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		a.err = a.cmd.Wait()
		close(a.done)
	}()
	if err := a.connect(ctx); err != nil {
		a.Kill()
		return nil, fmt.Errorf("lamina-node: %w\n%s", errors.Join(err, a.err), a.LogTail(30))
	}
	return a, nil
}

// At is an agent of that directory that does not run, for its log.
func At(dir string) *Agent {
	return &Agent{
		KubeletDir: dir, Socket: filepath.Join(dir, "plugins", "lamina.dev", "csi.sock"),
		LogFile: filepath.Join(dir, "agent.log"), done: make(chan struct{}),
	}
}

// Attach waits until an agent that somebody else started is ready. What is about the
// process (Stop, Kill, PID, ResidentMemory) is not to be used.
func Attach(ctx context.Context, dir string) (*Agent, error) {
	a := At(dir)
	return a, a.connect(ctx)
}

// Close lets go of the agent, which goes on.
func (a *Agent) Close() error { return a.conn.Close() }

// connect waits until the agent says that it is ready.
func (a *Agent) connect(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+a.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	a.conn = conn
	a.IdentityClient = csi.NewIdentityClient(conn)
	a.ControllerClient = csi.NewControllerClient(conn)
	a.NodeClient = csi.NewNodeClient(conn)
	a.GroupControllerClient = csi.NewGroupControllerClient(conn)
	a.Pools = link.NewPoolsClient(conn)
	// A poll of state, not a guess at how long it takes: the loop ends when the
	// agent is ready, has ended, or ctx has.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := a.Probe(ctx, &csi.ProbeRequest{})
		if err == nil && resp.GetReady().GetValue() {
			return nil
		}
		select {
		case <-a.done:
			return errors.New("it ended before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("it is not ready: %w", errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

// Commands are the lvm commands that agents of this directory have run so far.
func (a *Agent) Commands() ([]Command, error) {
	log, err := os.ReadFile(a.LogFile)
	if err != nil {
		return nil, err
	}
	var out []Command
	for line := range bytes.Lines(log) {
		var entry struct {
			Msg string `json:"msg"`
			Command
		}
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "lvm" {
			out = append(out, entry.Command)
		}
	}
	return out, nil
}

// LogTail is the last lines of the log, for people.
func (a *Agent) LogTail(lines int) string {
	log, err := os.ReadFile(a.LogFile)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Stop asks the agent to end and waits for it.
func (a *Agent) Stop() error {
	a.conn.Close()
	if err := a.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-a.done
	return a.err
}

// Kill ends the agent at once, as a crash does.
func (a *Agent) Kill() {
	if a.conn != nil {
		a.conn.Close()
	}
	_ = a.cmd.Process.Kill() // it may have ended already
	<-a.done
}

// PID is the process id of the agent.
func (a *Agent) PID() int { return a.cmd.Process.Pid }

// ResidentMemory is the agent's memory in bytes: all of it (VmRSS), and the part
// that is no page of a file (RssAnon).
func (a *Agent) ResidentMemory() (all, anonymous int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.PID()))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		for key, to := range map[string]*int64{"VmRSS:": &all, "RssAnon:": &anonymous} {
			if rest, ok := strings.CutPrefix(line, key); ok {
				if _, err := fmt.Sscanf(rest, "%d kB", to); err != nil {
					return 0, 0, err
				}
				*to <<= 10
			}
		}
	}
	return all, anonymous, nil
}
