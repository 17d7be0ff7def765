# Lamina. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export GOFLAGS += -trimpath
export CGO_ENABLED ?= 0

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
# grpc's tracing pages link html/template, and with it every exported method.
SMALL := -tags grpcnotrace
FUZZTIME ?= 3s

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/\1\t\2/' | expand -t 18

.PHONY: build
build: ## build bin/lamina-node and bin/lamina-controller
	go build $(SMALL) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: setup
setup: ## install the Debian packages that the VM rig needs (QEMU and tools)
	go run ./test/vm/cmd/vm install

.PHONY: image
image: setup build ## OCI archives of both programs in .cache/bundle, and the node bundle as a tree
	go run ./deploy/image build --tag $(VERSION)

.PHONY: extension
extension: setup ## Talos extension and systemd-sysext images in .cache/bundle/amd64 and arm64
	for arch in amd64 arm64; do \
	  GOARCH=$$arch go build $(SMALL) -ldflags '$(LDFLAGS)' -o bin/$$arch/lamina-node ./cmd/lamina-node && \
	  go run ./deploy/image extension --arch $$arch --bin bin/$$arch --tag $(VERSION) --out .cache/bundle/$$arch || exit 1; done

.PHONY: demo
demo: setup build ## the main job on a real kernel: a blank NVMe disk becomes volumes
	go run ./test/demo

.PHONY: test
test: test-unit fuzz test-talos test-vm ## everything: unit tests, fuzzing, OS extensions, real LVM in the VM

.PHONY: test-unit
test-unit: ## unit tests with the race detector, csi-sanity on the in-memory host
	CGO_ENABLED=1 go test -race -shuffle=on -timeout 20m ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (3s), two at a time; FUZZTIME=250000x for ten million runs in all
	@grep -rHoE '^func Fuzz[A-Za-z0-9_]*' --include=*_test.go . | sed -E 's,/[^/]*:func , ,' | sort -u | \
	  xargs -P 2 -n 2 sh -c 'echo "$$0 $$1"; exec go test "$$0" -run "^$$" -fuzz "^$$1\$$" \
	    -fuzztime $(FUZZTIME) -fuzzminimizetime 1s -parallel 1'

.PHONY: test-talos
test-talos: extension ## the extensions and examples for Talos, judged by Talos' own code; two builds are the same
	go -C test/talos test -count=1 -v ./...
	go test -tags vm -count=1 -timeout 30m -v ./deploy/image/...

.PHONY: test-vm
test-vm: setup ## conformance, vetting, mounts, csi-sanity and power cuts on real LVM in the VM
	go test -tags vm -count=1 -timeout 60m -p 1 -v ./test/vm/... ./test/real/...

.PHONY: cluster
cluster: e2e-images ## a Kubernetes with NODES (2) virtual machines and Lamina's images in the background, as root
	go run ./test/cluster/cmd/cluster install
	go run ./test/cluster/cmd/cluster up --nodes $(NODES) \
	  --image .cache/bundle/lamina-node.tar --image .cache/bundle/lamina-controller.tar
NODES ?= 2

.PHONY: cluster-down
cluster-down: ## stop it
	go run ./test/cluster/cmd/cluster down

# The manifests name the images of a release.
RELEASE := $(shell sed -n 's/^appVersion: *\([^ ]*\).*/\1/p' deploy/helm/lamina/Chart.yaml)

.PHONY: e2e-images
e2e-images:
	$(MAKE) image VERSION=$(RELEASE)

.PHONY: e2e
e2e: e2e-images ## Lamina on that Kubernetes, as its users use it, and with the agent as an extension; as root
	$(MAKE) extension VERSION=$(RELEASE)
	go run ./test/cluster/cmd/cluster install
	go test -tags cluster -count=1 -timeout 85m -v -run 'TestE2E|TestExtensionMode' ./test/e2e

.PHONY: bench
bench: setup build ## the node's agent against lvm typed by hand, on a clock that counts instructions (docs/performance.md)
	go run ./test/bench/node

.PHONY: bench-scale
bench-scale: build ## one controller, 1,000 and 5,000 simulated nodes, as root: memory, API writes, latency
	go build -o bin/bench ./test/bench
	mkdir -p bin/sidecars
	for m in provisioner others; do go -C test/bench/sidecars/$$m build -o $(CURDIR)/bin/sidecars/ tool || exit 1; done
	bin/bench -nodes 1000 -volumes 10000 -sidecars bin/sidecars
	bin/bench -nodes 5000 -volumes 50000

.PHONY: lint
lint: ## golangci-lint
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI) run ./...
GOLANGCI := v2.15.0

SNAPSHOTTER := github.com/kubernetes-csi/external-snapshotter/client/v8

.PHONY: manifests
manifests: ## write deploy/kustomize/base from the Helm chart, copy the snapshot CRDs
	go -C deploy/tools run ./render
	dir=$$(go list -m -f '{{.Dir}}' $(SNAPSHOTTER)) && install -m 644 \
	  $$dir/config/crd/*.storage.k8s.io_*.yaml $$dir/LICENSE deploy/kustomize/snapshot-controller/crd/

.PHONY: verify
verify: ## formatting, vet, go.mod, manifests as make manifests writes them
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "gofmt -w the files above"; exit 1; }
	go vet ./...
	go vet -tags vm ./...
	go vet -tags cluster ./test/cluster/... ./test/e2e
	go mod tidy -diff
	go -C test/talos vet ./...
	for m in talos cluster/tools bench/sidecars/provisioner bench/sidecars/others; do go -C test/$$m mod tidy -diff || exit 1; done
	go -C deploy/tools vet ./...
	go -C deploy/tools mod tidy -diff
	go -C deploy/tools run ./render -check

.PHONY: clean
clean: ## remove what was built; the download cache stays
	rm -rf bin .cache/bundle .cache/vm
