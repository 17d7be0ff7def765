// Package lvmtest is an LVM host in memory, and the suite that holds it and the
// real LVM to the same behaviour.
//
// A [Host] implements lvm.Runner and lvm.Kernel. It interprets the command lines
// that lvm.Client makes, keeps disks, metadata, device-mapper devices and data
// apart as a real host does, and answers in LVM's words. An option that it does
// not know is an error, so that a change of the client is noticed.
//
// What it models and tests rely on: extents and their exhaustion, the contents
// of disks (a thick volume shows what its extents held before), chunks of thin
// pools that are shared until written, open and suspended devices, a reboot, and
// a crash of the agent before, after and in the middle of a command.
package lvmtest
