package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lamina-csi/lamina/driver/link"
)

const (
	linkPort = 9443
	httpAddr = "127.0.0.1:9810"
)

// controller is a lamina-controller that runs.
type controller struct {
	cmd     *exec.Cmd
	started time.Time
	ended   chan struct{}
	socket  string // CSI
	log     string // file
}

// startController starts the program as its pod does, but for the way to the API
// server, and with a CSI socket.
func (b *bench) startController(ctx context.Context, name string, flags ...string) (*controller, error) {
	config, err := b.kubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	c := &controller{ended: make(chan struct{}), socket: filepath.Join(b.dir, name+".sock"), log: filepath.Join(b.dir, name+".log")}
	c.cmd = exec.Command(b.program, append([]string{"--kubeconfig=" + config, "--namespace=" + system, fmt.Sprint("--listen=:", linkPort),
		"--http=" + httpAddr, "--endpoint=" + c.socket}, flags...)...)
	c.cmd.Env = append(os.Environ(), "POD_NAME=lamina-controller-0")
	b.fleet.reset()
	return c, c.start()
}

// start starts the process.
func (c *controller) start() error {
	log, err := os.Create(c.log)
	if err != nil {
		return err
	}
	defer log.Close()
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.started = time.Now()
	started := make(chan error, 1)
	go func() {
		// The parent-death signal is tied to this thread (prctl(2)).
		runtime.LockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // its log says why
		}
		close(c.ended)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(c.cmd.Path), err)
	}
	return nil
}

// stop ends it in order, as a rolling update does.
func (c *controller) stop() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-c.ended:
		return nil
	case <-time.After(time.Minute):
		return errors.New("the controller does not end")
	}
}

func (c *controller) kill() {
	_ = c.cmd.Process.Kill() // it may have ended
	<-c.ended
}

// errEnded: there is nothing left to wait for.
var errEnded = errors.New("the controller ended")

// alive is an error when it has ended, with the end of its log.
func (c *controller) alive() error {
	select {
	case <-c.ended:
		text, err := os.ReadFile(c.log)
		return errors.Join(fmt.Errorf("%w: %s", errEnded, text[max(0, len(text)-2000):]), err)
	default:
		return nil
	}
}

// dialAll starts the agents, once the controller has told by which CA it is known:
// until then kubelet would not start their pods.
func (b *bench) dialAll(ctx context.Context) error {
	file := filepath.Join(b.dir, "ca.crt")
	if err := poll(ctx, "the controller's CA", 5*time.Minute, func() (bool, error) {
		m, err := b.cluster.Client().CoreV1().ConfigMaps(system).Get(ctx, "lamina-ca", metav1.GetOptions{})
		if err != nil || m.Data["ca.crt"] == "" {
			return false, err
		}
		return true, os.WriteFile(file, []byte(m.Data["ca.crt"]), 0o600)
	}); err != nil {
		return err
	}
	for i, a := range b.fleet.all {
		a.dial(ctx, link.DialConfig{
			Address: fmt.Sprintf("%s:%d", address(i), linkPort), ServerName: "lamina-controller." + system + ".svc",
			CAFile: file, TokenFile: b.tokenFile(i),
		})
	}
	return nil
}

// becomeReady measures a start: until /readyz says that the controller leads, all
// agents are linked and told, and nothing more is written.
func (b *bench) becomeReady(ctx context.Context, c *controller, dial func() error) error {
	what := "start, agents come with it"
	if b.result.has(what) {
		what = "restart, agents come back"
	}
	b.result.section(what)
	dialled := make(chan error, 1)
	go func() { dialled <- dial() }()
	at := func(name string, reached func() bool) error {
		err := poll(ctx, name, 15*time.Minute, func() (bool, error) {
			if err := c.alive(); err != nil {
				return false, err
			}
			return reached(), nil
		})
		b.result.seconds(name, time.Since(c.started), "")
		return err
	}
	all := func(n interface{ Load() int64 }) func() bool {
		return func() bool { return n.Load() >= int64(b.Nodes) }
	}
	err := at("/readyz: it leads", func() bool {
		text, err := get(ctx, "/readyz")
		return err == nil && strings.Contains(text, "leading")
	})
	if err := errors.Join(err, <-dialled); err != nil {
		return err
	}
	for _, step := range []struct {
		name    string
		reached func() bool
	}{
		{"all agents have a link", all(&b.fleet.linked)},
		{"all send their status", all(&b.fleet.shown)},
		{"all are told their pools", all(&b.fleet.told)},
	} {
		if err := at(step.name, step.reached); err != nil {
			return err
		}
	}
	if n := b.fleet.ended.Load(); n > 0 {
		b.result.count("links that ended on the way", float64(n), "")
	}
	last, err := b.audit.quiet(ctx, c.started)
	if err != nil {
		return err
	}
	b.result.seconds("nothing more to write", last.Sub(c.started), "")
	b.requests(c.started, float64(b.Nodes), "node")
	return b.footprint(ctx, c, "then")
}

// footprint notes what the process takes.
func (b *bench) footprint(ctx context.Context, c *controller, when string) error {
	rss, err := status(c.cmd.Process.Pid, "VmRSS")
	if err != nil {
		return err
	}
	peak, err := status(c.cmd.Process.Pid, "VmHWM")
	if err != nil {
		return err
	}
	b.result.memory("memory "+when+" (VmRSS)", rss, false)
	b.result.memory("peak (VmHWM)", peak, true)
	text, err := get(ctx, "/metrics")
	if err != nil {
		return err
	}
	m := samples(text)
	b.result.memory("  heap that is live or garbage", m["go_memstats_heap_alloc_bytes"], false)
	b.result.memory("  stacks", m["go_memstats_stack_inuse_bytes"], false)
	b.result.count("goroutines", m["go_goroutines"], "")
	if n := m[`lamina_controller_nodes{state="linked"}`]; int(n) != b.Nodes {
		return fmt.Errorf("the controller has links of %v nodes, not of %d", n, b.Nodes)
	}
	return nil
}

// get asks the controller's HTTP server.
func get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+httpAddr+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, resp.Status)
	}
	return string(body), err
}

// samples reads Prometheus' text format.
func samples(text string) map[string]float64 {
	out := map[string]float64{}
	for line := range strings.Lines(text) {
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64); err == nil {
			out[line[:at]] = v
		}
	}
	return out
}

// status is a field of /proc/<pid>/status (proc_pid_status(5)), in bytes.
func status(pid int, field string) (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), field+":"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("process %d: no %s", pid, field)
}
