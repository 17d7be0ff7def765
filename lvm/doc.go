// Package lvm drives LVM2 and reads device-mapper.
//
// Changes go through lvm(8): each method of [Client] that is named after a
// command (LVCreateThin, LVRemove, VGExtend …) runs that command once. Reads
// that happen per request run no process at all: the metadata of a volume group
// is read from its physical volumes ([Client.ReadVG]) and the state of a device
// from the kernel by ioctl ([DeviceMapper]).
//
// Two seams lie below. [Runner] has one method and runs one lvm command.
// [Kernel] is device-mapper and the bytes on the physical volumes. Package
// lvmtest implements both in memory, and its conformance suite runs on it and
// on the real thing.
//
// Names, tags and device paths are types that cannot be built from an unchecked
// string, so nothing that reaches a command line can be read as an option, as a
// tag selection ("@tag") or as more than one name.
//
// The package does not log. Errors are [*Error] for a command that failed and
// wrap one of the sentinels in error.go where the reason is known.
package lvm
