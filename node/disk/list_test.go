package disk

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestList(t *testing.T) {
	f := newFake(t)
	f.disk("nvme1n1", "259:1", "S2")
	f.disk("nvme0n1", "259:0", "S1")
	f.disk("nvme0c0n1", "259:9", "S1")
	f.attrs("nvme0c0n1", map[string]string{"hidden": "1"})
	for _, name := range []string{"loop0", "ram1", "zram0", "dm-0", "md127", "md_home", "sr0", "fd0", "zd16",
		"bcache0", "drbd1", "rbd0", "mtdblock0", "mmcblk0boot0", "mmcblk0rpmb"} {
		f.disk(name, "7:0", "X")
	}
	f.disk("nbd0", "43:0", "")
	f.attrs("nbd0", map[string]string{"size": "0"})
	f.mkdir("sys/block/sdz") // a disk whose attributes have gone already
	f.symlink("../../nvme0n1", "dev/disk/by-id/nvme-udev-knows-better")
	f.symlink("../../nvme0n1p1", "dev/disk/by-id/nvme-udev-knows-better-part1")

	want := []Disk{{
		Name: "nvme0n1", Path: f.sys.dev("nvme0n1"), Model: "QEMU NVMe Ctrl", Serial: "S1", WWN: "eui.00S1",
		Transport: "nvme", Size: fakeSize, Major: 259, Minor: 0, Seq: 7,
		Links: []string{"nvme-QEMU_NVMe_Ctrl_S1", "nvme-QEMU_NVMe_Ctrl_S1_1", "nvme-eui.00S1", "nvme-udev-knows-better"},
	}, {
		Name: "nvme1n1", Path: f.sys.dev("nvme1n1"), Model: "QEMU NVMe Ctrl", Serial: "S2", WWN: "eui.00S2",
		Transport: "nvme", Size: fakeSize, Major: 259, Minor: 1, Seq: 7,
		Links: []string{"nvme-QEMU_NVMe_Ctrl_S2", "nvme-QEMU_NVMe_Ctrl_S2_1", "nvme-eui.00S2"},
	}}
	if diff := cmp.Diff(want, f.list()); diff != "" {
		t.Error(diff)
	}
}

func TestIdentity(t *testing.T) {
	type id struct {
		Serial, WWN, Transport string
		Links                  []string
	}
	// scsi puts a disk's device below path, as the kernel's bus hierarchy does.
	scsi := func(path string) func(f *fake) string {
		return func(f *fake) string {
			f.write("sys/devices/"+path+"/wwid", "naa.5000c500a1b2c3d4\n")
			f.write("sys/devices/"+path+"/vpd_pg80", "\x00\x80\x00\x06Z1 A2 trailing")
			f.write("sys/devices/"+path+"/model", "ST 4000\n")
			f.disk("sda", "8:0", "")
			f.remove("sys/block/sda/wwid")
			f.remove("sys/block/sda/nsid")
			f.remove("sys/block/sda/device")
			f.symlink("../../devices/"+path, "sys/block/sda/device")
			return "sda"
		}
	}
	wwn := "wwn-0x5000c500a1b2c3d4"
	nvme := func(change map[string]string) func(f *fake) string {
		return func(f *fake) string {
			f.disk("nvme0n1", "259:0", "S1")
			f.attrs("nvme0n1", change)
			return "nvme0n1"
		}
	}
	tests := []struct {
		name  string
		build func(f *fake) string
		want  id
	}{
		{"sata", scsi("pci0/ata3/host2/target2:0:0/2:0:0:0"),
			id{"Z1 A2", "naa.5000c500a1b2c3d4", "sata", []string{"ata-ST_4000_Z1_A2", wwn}}},
		{"sas", scsi("pci0/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0"),
			id{"Z1 A2", "naa.5000c500a1b2c3d4", "sas", []string{wwn}}},
		{"usb", scsi("pci0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0"),
			id{"Z1 A2", "naa.5000c500a1b2c3d4", "usb", []string{wwn}}},
		{"iscsi", scsi("platform/host7/session1/target7:0:0/7:0:0:0"),
			id{"Z1 A2", "naa.5000c500a1b2c3d4", "iscsi", []string{wwn}}},
		{"fibre channel", scsi("pci0/host8/rport-8:0-0/target8:0:0/8:0:0:0"),
			id{"Z1 A2", "naa.5000c500a1b2c3d4", "fc", []string{wwn}}},
		{"virtio-scsi", scsi("pci0/virtio1/host9/target9:0:0/9:0:0:0"),
			id{"Z1 A2", "naa.5000c500a1b2c3d4", "scsi", []string{wwn}}},
		{"second namespace", nvme(map[string]string{"nsid": "2"}),
			id{"S1", "eui.00S1", "nvme", []string{"nvme-QEMU_NVMe_Ctrl_S1_2", "nvme-eui.00S1"}}},
		{"nvme over tcp", nvme(map[string]string{"device/transport": "tcp"}),
			id{"S1", "eui.00S1", "nvme-tcp", []string{"nvme-QEMU_NVMe_Ctrl_S1", "nvme-QEMU_NVMe_Ctrl_S1_1", "nvme-eui.00S1"}}},
		{"multipath with a path on a network", func(f *fake) string {
			name := nvme(map[string]string{"device/nvme0/transport": "pcie", "device/nvme1/transport": "rdma"})(f)
			f.remove("sys/block/nvme0n1/device/transport")
			return name
		}, id{"S1", "eui.00S1", "nvme-rdma", []string{"nvme-QEMU_NVMe_Ctrl_S1", "nvme-QEMU_NVMe_Ctrl_S1_1", "nvme-eui.00S1"}}},
		{"virtio", func(f *fake) string {
			f.attrs("vda", map[string]string{"dev": "254:0", "size": "8", "ro": "0", "removable": "0", "serial": "V1"})
			return "vda"
		}, id{"V1", "", "virtio", []string{"virtio-V1"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			name := tt.build(f)
			disks := f.list()
			if len(disks) != 1 || disks[0].Name != name {
				t.Fatalf("listed %v, want %s alone", disks, name)
			}
			d := disks[0]
			if diff := cmp.Diff(tt.want, id{d.Serial, d.WWN, d.Transport, d.Links}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestListErrors(t *testing.T) {
	for attr, value := range map[string]string{
		"size": "many", "dev": "259", "ro": "", "removable": "x", "diskseq": "-1",
	} {
		f := newFake(t)
		f.disk("nvme0n1", "259:0", "S1")
		f.attrs("nvme0n1", map[string]string{attr: value})
		if disks, err := f.sys.List(t.Context()); err == nil {
			t.Errorf("%s=%q: listed %v without an error", attr, value, disks)
		}
	}
	f := newFake(t)
	f.disk("nvme0n1", "259:0", "S1")
	f.attrs("nvme0n1", map[string]string{"size": "36028797018963968"})
	if _, err := f.sys.List(t.Context()); err == nil {
		t.Error("a size above 8 EiB was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.sys.List(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	f.remove("sys/block")
	if _, err := f.sys.List(t.Context()); err == nil {
		t.Error("no sysfs: want an error, not an empty list")
	}
}
