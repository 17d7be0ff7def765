package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lamina-csi/lamina/test/cluster"
)

const upLine = "the cluster is up"

// downTime is how long the supervisor may take to stop the cluster.
const downTime = time.Minute

// pidFile and logFile lie beside the cluster's directory, which it empties.
func pidFile(dir string) string { return dir + ".pid" }
func logFile(dir string) string { return dir + ".log" }

// attach finds the cluster that a supervisor holds.
func attach() (*cluster.Cluster, error) {
	dir, err := stateDir()
	if err != nil {
		return nil, err
	}
	if pid, err := supervisor(dir); err != nil || pid == 0 {
		return nil, errors.Join(errors.New("no cluster is up: run `make cluster`"), err)
	}
	return cluster.Attach(dir)
}

// supervisor returns its process id, or 0.
func supervisor(dir string) (int, error) {
	data, err := os.ReadFile(pidFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, err
	}
	// The number may have been given to another program since.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(line), "\x00supervise\x00") {
		return 0, nil
	}
	return pid, nil
}

// up starts the supervisor, shows what it says, and leaves it when the cluster
// is up.
func up(ctx context.Context, args []string) error {
	if _, err := parse(args); err != nil {
		return err
	}
	dir, err := stateDir()
	if err != nil {
		return err
	}
	if pid, err := supervisor(dir); err != nil || pid != 0 {
		return errors.Join(fmt.Errorf("a cluster is up (process %d): run `make cluster-down` first", pid), err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	log, err := os.Create(logFile(dir))
	if err != nil {
		return err
	}
	defer log.Close()
	// The trailing word marks the process; see supervisor.
	cmd := exec.Command("/proc/self/exe", append([]string{"supervise"}, append(args, "--")...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(pidFile(dir), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := follow(ctx, logFile(dir), ended); err != nil {
		return errors.Join(err, down(context.WithoutCancel(ctx)))
	}
	c, err := cluster.Attach(dir)
	if err != nil {
		return err
	}
	fmt.Printf(`
  export KUBECONFIG=%s
  export PATH=$PATH:%s
  kubectl get nodes

Run a program on a node: go run ./test/cluster/cmd/cluster exec 0 lsblk
Logs and disks: %s
Stop it: make cluster-down
`, c.Kubeconfig(), filepath.Dir(c.KubectlPath()), dir)
	return nil
}

// follow shows a log until the line that ends the start.
func follow(ctx context.Context, name string, ended <-chan error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	var line strings.Builder
	for r := bufio.NewReader(f); ; {
		part, err := r.ReadString('\n')
		line.WriteString(part)
		if err == nil {
			fmt.Print(line.String())
			if strings.TrimSpace(line.String()) == upLine {
				return nil
			}
			line.Reset()
			continue
		}
		select {
		case err := <-ended:
			rest, _ := r.ReadString(0)
			return fmt.Errorf("the cluster did not start: %w\n%s", errors.Join(err), line.String()+rest)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func down(ctx context.Context) error {
	dir, err := stateDir()
	if err != nil {
		return err
	}
	pid, err := supervisor(dir)
	if err != nil || pid == 0 {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return err
	}
	for start := time.Now(); time.Since(start) < downTime; {
		if pid, err := supervisor(dir); err != nil || pid == 0 {
			return errors.Join(err, os.Remove(pidFile(dir)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("process %d is still there after %v", pid, downTime)
}
