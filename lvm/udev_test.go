package lvm

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The socket of a udevd that was killed is there and nobody listens.
func TestAnswers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control")
	if answers(socket) {
		t.Error("a missing socket answers")
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	for range 3 { // nobody accepts: the queue fills
		if !answers(socket) {
			t.Error("it does not answer")
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if answers(socket) {
		t.Error("the socket that a dead process left answers")
	}
}

// waiter is the environment of a child process: the key of the semaphore on which it
// waits as libdm does.
const waiter = "LAMINA_TEST_SEMAPHORE"

// It runs in init, which has the main thread, as a program in C that calls libdm.
func init() {
	key, err := strconv.ParseUint(os.Getenv(waiter), 0, 32)
	if err != nil {
		return
	}
	id, _, errno := unix.Syscall(unix.SYS_SEMGET, uintptr(key), 1, unix.IPC_CREAT|unix.IPC_EXCL|0o600)
	if errno == 0 {
		_, _, errno = unix.Syscall6(unix.SYS_SEMCTL, id, 0, setVal, 1, 0, 0)
	}
	zero := struct { // struct sembuf
		num     uint16
		op, flg int16
	}{}
	for wait := errno == 0; wait; wait = errno == unix.EINTR {
		_, _, errno = unix.Syscall(unix.SYS_SEMOP, id, uintptr(unsafe.Pointer(&zero)), 1)
	}
	_, _, _ = unix.Syscall(unix.SYS_SEMCTL, id, 0, unix.IPC_RMID)
	os.Exit(int(errno))
}

func startWaiter(t *testing.T, magic uint32) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = []string{fmt.Sprintf("%s=%d", waiter, magic<<16|rand.Uint32N(1<<16))}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// A program that waits for a udevd that does not answer goes on, and the next too.
func TestWatch(t *testing.T) {
	told := make(chan string, 2)
	u := &Udev{GiveUp: func(program string) { told <- program }, patience: 1}
	if !u.Answers() {
		t.Error("a udevd does not answer before it is asked")
	}
	for range 2 {
		cmd := startWaiter(t, cookieMagic)
		stop := u.Watch("lvcreate", cmd.Process.Pid)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		stop()
	}
	if got := <-told; got != "lvcreate" || len(told) != 0 || u.Answers() {
		t.Errorf("told of %s and %d more; it answers: %t", got, len(told), u.Answers())
	}
}

// Semaphores of others are not touched.
func TestWaitsFor(t *testing.T) {
	for magic, want := range map[uint32]bool{cookieMagic: true, cookieMagic + 1: false} {
		cmd := startWaiter(t, magic)
		wait := regexp.MustCompile(fmt.Sprintf(`^%d 0x([0-9a-f]+)`, unix.SYS_SEMOP))
		var id cookie
		for {
			call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			if m := wait.FindSubmatch(call); m != nil {
				n, err := strconv.ParseUint(string(m[1]), 16, 31)
				if err != nil {
					t.Fatal(err)
				}
				id = cookie(n)
				break
			}
		}
		got, ok := waitsFor(cmd.Process.Pid)
		if ok != want || ok && got != id {
			t.Errorf("magic number %#x: it waits for cookie %d: %t", magic, got, ok)
		}
		id.answer()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// Without a udevd nothing is watched, and nothing waits.
func TestNoUdev(t *testing.T) {
	var u *Udev
	u.Watch("lvs", os.Getpid())()
	if u.Answers() {
		t.Error("no udevd answers")
	}
}
