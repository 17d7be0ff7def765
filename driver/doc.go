// Package driver is the CSI edge of the node agent: Identity, Controller, Node
// and GroupController of CSI 1.13 on a unix socket, kubelet's plugin
// registration, metrics and health. It checks what a request says, calls package
// pool and package mount, and turns their errors into gRPC codes in one table.
//
// It keeps no record of volumes. What an RPC needs is in LVM's metadata and in
// the kernel; the parameters that a volume was made with are its volume context,
// which LVM's tags hold, so that a request's own copy need not be believed.
package driver
