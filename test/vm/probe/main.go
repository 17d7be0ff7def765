//go:build linux

// Command probe is what the rig's own tests run inside the virtual machine. It
// talks in lines: it prints one, and reads one where it waits for the host.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var probes = map[string]func(args []string) error{
	"exit":  exit,
	"echo":  echo,
	"disks": disks,
	"thin":  thin,
	"write": write,
	"read":  read,
	"gone":  gone,
	"io":    tryIO,
	"fill":  fill,
	"hang":  hang,
	"crash": crash,
	"env":   env,
}

func main() {
	probe, ok := probes[os.Args[1]]
	if !ok {
		fmt.Fprintln(os.Stderr, "no probe", os.Args[1])
		os.Exit(2)
	}
	if err := probe(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func exit(args []string) error {
	fmt.Println("to stdout")
	fmt.Fprintln(os.Stderr, "to stderr")
	code, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	os.Exit(code)
	return nil
}

var stdin = bufio.NewScanner(os.Stdin)

// say prints a line and waits for one.
func say(line string) error {
	fmt.Println(line)
	if !stdin.Scan() {
		return errors.New("the host went silent")
	}
	return nil
}

func echo([]string) error {
	if err := say("ready"); err != nil {
		return err
	}
	fmt.Println("got " + stdin.Text())
	return nil
}

func env(args []string) error {
	for _, name := range args {
		fmt.Println(os.Getenv(name))
	}
	data, err := os.ReadFile("/data/in")
	if err != nil {
		return err
	}
	return os.WriteFile("/data/out", bytes.Repeat(data, 100_000), 0o644)
}

// disk returns the device name of a serial number.
func disk(serial string) (string, error) {
	nvme, err := filepath.Glob("/sys/block/nvme*/device/serial")
	if err != nil {
		return "", err
	}
	virtio, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return "", err
	}
	for _, f := range append(nvme, virtio...) {
		if attr(f) == serial {
			return strings.Split(f, "/")[3], nil
		}
	}
	return "", fmt.Errorf("no disk %s", serial)
}

func attr(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}

func disks(serials []string) error {
	for _, s := range serials {
		name, err := disk(s)
		if err != nil {
			return err
		}
		dir := "/sys/block/" + name
		fmt.Println(s, attr(dir+"/size"), attr(dir+"/ro"), attr(dir+"/queue/logical_block_size"))
	}
	return nil
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

func devices(serials []string) ([]string, error) {
	var devs []string
	for _, s := range serials {
		name, err := disk(s)
		if err != nil {
			return nil, err
		}
		devs = append(devs, "/dev/"+name)
	}
	return devs, nil
}

// thin makes a pool and a volume over the disks, and lists what lvm sees.
func thin(serials []string) error {
	devs, err := devices(serials)
	if err != nil {
		return err
	}
	for _, argv := range [][]string{
		append([]string{"pvcreate", "--"}, devs...),
		append([]string{"vgcreate", "--", "vg"}, devs...),
		{"lvcreate", "--type", "thin-pool", "-l", "90%FREE", "-n", "pool", "vg"},
		{"lvcreate", "--type", "thin", "-V", "1g", "--thinpool", "pool", "-n", "vol", "vg"},
		{"lvcreate", "-s", "-n", "snap", "vg/vol"},
	} {
		if err := command("lvm", argv...); err != nil {
			return err
		}
	}
	out, err := exec.Command("lvm", "lvs", "--noheadings", "-o", "lv_name,lv_size,segtype,origin", "vg").Output()
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		fmt.Println(strings.Join(strings.Fields(line), " "))
	}
	return command("mkfs.ext4", "-q", "/dev/vg/vol")
}

const mountPoint = "/mnt"

func mount(serial string) error {
	name, err := disk(serial)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(mountPoint, 0o755); err != nil {
		return err
	}
	return unix.Mount("/dev/"+name, mountPoint, "ext4", 0, "")
}

func writeSync(file string, data []byte) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// write makes a file system, writes a file durably, says so, and goes on
// writing until the power is cut.
func write(args []string) error {
	devs, err := devices(args)
	if err != nil {
		return err
	}
	if err := command("mkfs.ext4", "-q", devs[0]); err != nil {
		return err
	}
	if err := mount(args[0]); err != nil {
		return err
	}
	if err := writeSync(mountPoint+"/durable", bytes.Repeat([]byte("kept"), 1<<18)); err != nil {
		return err
	}
	dir, err := os.Open(mountPoint)
	if err != nil {
		return err
	}
	if err := dir.Sync(); err != nil { // the name needs an fsync of its own
		return err
	}
	if err := os.WriteFile(mountPoint+"/volatile", []byte("lost"), 0o644); err != nil {
		return err
	}
	fmt.Println("durable")
	for i := 0; ; i++ {
		if err := os.WriteFile(fmt.Sprintf("%s/%d", mountPoint, i%100), make([]byte, 1<<16), 0o644); err != nil {
			return err
		}
	}
}

func read(args []string) error {
	if err := mount(args[0]); err != nil {
		return err
	}
	data, err := os.ReadFile(mountPoint + "/durable")
	if err != nil {
		return err
	}
	fmt.Println(len(data), bytes.Count(data, []byte("kept")))
	_, err = os.Stat(mountPoint + "/volatile")
	fmt.Println("volatile lost:", errors.Is(err, os.ErrNotExist))
	return nil
}
