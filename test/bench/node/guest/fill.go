package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/lamina-csi/lamina/lvm"
)

const gib = 1 << 30

// fill makes volumes until there are n, all of them active. One is made by CSI;
// the others are written into LVM's metadata and the kernel's as copies of it:
// lvcreate would take most of an hour.
func (b *bench) fill(ctx context.Context, n int) error {
	if b.filled == 0 {
		v, err := b.agent.Create(ctx, "fast", b.name(), "ext4", gib, nil)
		if err != nil {
			return err
		}
		b.names, b.filled = []string{v.Name}, 1
	}
	if n <= b.filled {
		return nil
	}
	raw, err := b.kernel.ReadMetadata(b.group.Devices[0], lvm.Generation{})
	if err != nil {
		return err
	}
	more := n - b.filled
	text, names, first, transaction, err := multiply(string(raw.Text), b.names[0], more, b.name)
	if err != nil {
		return err
	}
	tpool := lvm.DMName(b.group.Name, mustLV(thinPool), "tpool")
	for i := range more {
		if err := b.kernel.Message(tpool, fmt.Sprintf("create_thin %d", first+i)); err != nil {
			return err
		}
	}
	if err := b.kernel.Message(tpool, fmt.Sprintf("set_transaction_id %d %d", transaction, transaction+more)); err != nil {
		return err
	}
	if err := os.WriteFile("/tmp/vg", []byte(strings.TrimRight(text, "\x00")), 0o600); err != nil {
		return err
	}
	if err := b.withoutUdev(func(conf string) error {
		if err := runLVM(conf, "vgcfgrestore", "--force", "--yes", "--file", "/tmp/vg", vg); err != nil {
			return err
		}
		args := []string{"lvchange", "--activate", "y", "--ignoreactivationskip", "--"}
		for _, name := range names {
			args = append(args, vg+"/"+name)
		}
		return runLVM(conf, args...)
	}); err != nil {
		return err
	}
	b.names, b.filled = append(b.names, names...), n
	return nil
}

// withoutUdev runs do while there is no udevd, which would look into each of the
// new devices, and with a configuration that does not wait for it.
func (b *bench) withoutUdev(do func(conf string) error) error {
	const conf = "/tmp/lvm-noudev"
	text, err := os.ReadFile(tunedLVM + "/lvm.conf")
	if err != nil {
		return err
	}
	text = append(text, "\nactivation {\n\tudev_sync = 0\n\tudev_rules = 0\n}\n"...)
	if err := errors.Join(os.MkdirAll(conf, 0o755), os.WriteFile(conf+"/lvm.conf", text, 0o600), knowDisks(conf)); err != nil {
		return err
	}
	if err := run("udevadm", "control", "--exit"); err != nil {
		return err
	}
	err = do(conf)
	return errors.Join(err, command(udevd, "--daemon").Run())
}

var (
	idLine          = regexp.MustCompile(`(?m)^id = ".*"$`)
	transactionLine = regexp.MustCompile(`transaction_id = (\d+)`)
	deviceLine      = regexp.MustCompile(`device_id = (\d+)`)
)

// multiply copies the section of one thin volume in LVM's text n times. The
// copies' device ids follow the largest in use, and their transactions the pool's.
func multiply(text, model string, n int, name func() string) (out string, names []string, first, transaction int, err error) {
	start := strings.Index(text, "\n"+model+" {\n")
	if start < 0 {
		return "", nil, 0, 0, fmt.Errorf("there is no %s in LVM's text", model)
	}
	start++
	end, depth := start, 0
	for end < len(text) {
		c := text[end]
		end++
		if c == '{' {
			depth++
		}
		if c == '}' {
			if depth--; depth == 0 {
				break
			}
		}
	}
	section := text[start:end]
	for _, m := range deviceLine.FindAllStringSubmatch(text, -1) {
		var id int
		fmt.Sscan(m[1], &id) //nolint:errcheck // the pattern has digits only
		first = max(first, id+1)
	}
	at := strings.Index(text, "\n"+thinPool+" {\n")
	loc := transactionLine.FindStringSubmatchIndex(text[max(at, 0):])
	if at < 0 || loc == nil {
		return "", nil, 0, 0, errors.New("there is no thin pool in LVM's text")
	}
	fmt.Sscan(text[at+loc[2]:at+loc[3]], &transaction) //nolint:errcheck // the same
	var copies strings.Builder
	for i := range n {
		names = append(names, name())
		c := strings.ReplaceAll(section, model, names[i])
		c = idLine.ReplaceAllString(c, `id = "`+lvmUUID()+`"`)
		c = transactionLine.ReplaceAllString(c, fmt.Sprintf("transaction_id = %d", transaction+i))
		c = deviceLine.ReplaceAllString(c, fmt.Sprintf("device_id = %d", first+i))
		copies.WriteString("\n" + c + "\n")
	}
	pool := fmt.Sprintf("transaction_id = %d", transaction+n)
	if at < start {
		out = text[:at+loc[0]] + pool + text[at+loc[1]:end] + copies.String() + text[end:]
	} else {
		out = text[:end] + copies.String() + text[end:at+loc[0]] + pool + text[at+loc[1]:]
	}
	return out, names, first, transaction, nil
}

// lvmUUID is a random one of LVM's form.
func lvmUUID() string {
	const alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	buf := make([]byte, 32)
	rand.Read(buf) //nolint:errcheck // it never fails (crypto/rand)
	var out strings.Builder
	for i, c := range buf {
		out.WriteByte(alphabet[int(c)%len(alphabet)])
		if i == 5 || i == 9 || i == 13 || i == 17 || i == 21 || i == 25 {
			out.WriteByte('-')
		}
	}
	return out.String()
}

func mustLV(s string) lvm.LVName {
	n, err := lvm.ParseLVName(s)
	if err != nil {
		panic(err)
	}
	return n
}
