// Package link is the connection between the agent of a node and the controller,
// both ends of it, and the messages about pools that go over it beside CSI.
//
// The agent dials ([Listen]), proves who it is with its token, and then serves
// gRPC on the connection; the controller ([Hub]) is the client. Nothing listens
// on a node. docs/decisions/link.md says why.
package link

// With protoc 3.21.12 (Debian's protobuf-compiler), protoc-gen-go v1.36.12 and
// protoc-gen-go-grpc v1.5.1 on PATH:
//
//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative pools.proto
