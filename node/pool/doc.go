// Package pool is the core of the node agent: pools made of disks, and the
// volumes and snapshots in them. It knows neither gRPC nor Kubernetes.
//
// LVM's metadata is the only record. A volume group that carries the tag
// lamina.pool=<pool> is ours to use; a logical volume that carries lamina.kind is
// ours to change and to remove; everything else is left alone. What a request
// needs is read from the physical volumes when it comes (package lvm caches by
// LVM's own generation), so an administrator's hands, a restart and a crash all
// look the same: what the metadata says, is.
//
// Operations are idempotent by CSI name. They may be called concurrently: two on
// one volume follow each other, those on different volumes wait only where LVM
// itself allows one change of a volume group at a time.
package pool
