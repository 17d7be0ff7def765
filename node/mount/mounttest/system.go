// Package mounttest is a node in memory for tests of node/mount and of what stands on it. Programs
// behave: mkfs writes a small superblock to the device, blkid finds it, cryptsetup opens it with its
// key, and a mounted filesystem replays its log. Directories are real, so the kubelet directory must be
// a real directory (t.TempDir()); mounts are not.
package mounttest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/lamina-csi/lamina/node/mount"
)

// Crash is what a hook panics with to play the death of the agent.
type Crash struct{}

// Hook is called around every program and mount. An error is returned to the caller of the program
// instead of running it (Before) or after it ran (After). A panic plays a crash.
type Hook func(mount.Command) error

// System is a node. Its fields may be set while nothing runs on it.
type System struct {
	// Before and After are crash points. Nil does nothing.
	Before, After Hook
	// Busy holds paths and mapping names that are in use.
	Busy map[string]bool

	mu       sync.Mutex
	devices  Devices
	mappings map[string]*mapping
	mounts   []entry
	frozen   map[string]bool // by mount point
	log      []mount.Command
	made     int
}

type mapping struct {
	path    string // device under it
	section *section
}

// New returns a node with the given devices.
func New(devices Devices) *System {
	return &System{devices: devices, mappings: map[string]*mapping{}, frozen: map[string]bool{}, Busy: map[string]bool{}}
}

// Config returns the configuration of a Mounter on this node.
func (s *System) Config(kubeletDir string) mount.Config {
	return mount.Config{KubeletDir: kubeletDir, Runner: s, Mounts: &table{s}, Kernel: &kernel{s}}
}

// Reboot forgets mounts and mappings and keeps the devices.
func (s *System) Reboot() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mounts, s.mappings, s.frozen = nil, map[string]*mapping{}, map[string]bool{}
}

// Commands returns what ran, in order, since the last call.
func (s *System) Commands() []mount.Command {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.log
	s.log = nil
	return log
}

// Content returns what a device holds, a mapping's inside under its /dev/mapper name.
func (s *System) Content(device string) (Content, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.contentOf(device)
}

func (s *System) contentOf(device string) (Content, error) {
	d, err := s.device(device)
	if err != nil {
		return Content{}, err
	}
	return readContent(d)
}

// SetContent puts something on a device. The zero Content empties it.
func (s *System) SetContent(device string, c Content) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.device(device)
	if err != nil {
		return err
	}
	return writeContent(d, c)
}

// Write stands for writing files in the filesystem mounted at path.
func (s *System) Write(path, data string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, c, err := s.mounted(path)
	if err != nil {
		return err
	}
	c.Data = data
	return writeContent(d, c)
}

// Read returns what was written in the filesystem mounted at path.
func (s *System) Read(path string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, c, err := s.mounted(path)
	return c.Data, err
}

func (s *System) mounted(path string) (Device, Content, error) {
	for i := len(s.mounts) - 1; i >= 0; i-- {
		if s.mounts[i].Path != path {
			continue
		}
		d, err := s.device(s.mounts[i].Device)
		if err != nil {
			return nil, Content{}, err
		}
		c, err := readContent(d)
		return d, c, err
	}
	return nil, Content{}, fmt.Errorf("%s: nothing is mounted", path)
}

// device finds a device or an open mapping. The caller holds the lock.
func (s *System) device(path string) (Device, error) {
	for name, m := range s.mappings {
		if path == mount.MappedDevice(name) {
			return m.section, nil
		}
	}
	return s.devices.Device(path)
}

// inUse tells whether a device is mounted or lies under a mapping.
func (s *System) inUse(path string) bool {
	for _, e := range s.mounts {
		if e.Device == path {
			return true
		}
	}
	for _, m := range s.mappings {
		if m.path == path {
			return true
		}
	}
	return false
}

// step runs do between the hooks.
func (s *System) step(cmd mount.Command, do func() error) error {
	if s.Before != nil {
		if err := s.Before(cmd); err != nil {
			return err
		}
	}
	err := func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.log = append(s.log, mount.Command{Name: cmd.Name, Args: cmd.Args})
		return do()
	}()
	if s.After != nil {
		if hookErr := s.After(cmd); hookErr != nil {
			return hookErr
		}
	}
	return err
}

// Run implements [mount.Runner].
func (s *System) Run(ctx context.Context, cmd mount.Command) (mount.Result, error) {
	if err := ctx.Err(); err != nil {
		return mount.Result{}, &mount.CommandError{Name: cmd.Name, Args: cmd.Args, Exit: -1, Err: err}
	}
	var result mount.Result
	err := s.step(cmd, func() error {
		program, known := programs[cmd.Name]
		if !known {
			return fail(127, "no such program")
		}
		out, err := program(s, cmd)
		result.Stdout = []byte(out)
		return err
	})
	if failed, ok := errors.AsType[*mount.CommandError](err); ok && failed.Name == "" {
		failed.Name, failed.Args = cmd.Name, cmd.Args
	}
	return result, err
}

// fail is a program's exit. Run adds the command.
func fail(code int, format string, args ...any) error {
	return &mount.CommandError{Exit: code, Stderr: fmt.Sprintf(format, args...)}
}
