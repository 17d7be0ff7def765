// Package sanity runs csi-sanity, the conformance suite of the CSI community
// (github.com/kubernetes-csi/csi-test), and holds that it runs in full: every case
// that skips itself is listed with its reason.
package sanity

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Target is a driver to judge.
type Target struct {
	Name       string // of this run, for people
	Endpoint   string // path of the CSI socket
	Controller string // path of the controller's CSI socket; "": the same
	KubeletDir string
	Block      bool              // raw block volumes, else filesystems
	VolumeSize int64             // bytes; a multiple of LVM's extent. Expanded to twice that
	Parameters map[string]string // of the StorageClass
	Mutable    map[string]string // of the VolumeAttributesClass
	// Skips are the cases that may skip themselves, with the reason. A case that
	// skips and is not here fails the run, and so does one here that ran.
	Skips map[string]string
}

// Run judges all targets. A process can call it once only: that is ginkgo's rule.
func Run(t *testing.T, targets ...Target) {
	t.Helper()
	gomega.RegisterFailHandler(ginkgo.Fail)
	for _, target := range targets {
		config, err := target.config()
		if err != nil {
			t.Fatalf("%s: %v", target.Name, err)
		}
		ginkgo.Describe(target.Name, func() {
			sc := sanity.GinkgoTest(config)
			ginkgo.AfterAll(sc.Finalize)
		}, ginkgo.Ordered, ginkgo.ContinueOnFailure)
	}
	var report types.Report
	ginkgo.ReportAfterSuite("count", func(r types.Report) { report = r })
	suite, reporter := ginkgo.GinkgoConfiguration()
	reporter.Succinct, reporter.NoColor = true, true
	if !ginkgo.RunSpecs(t, "csi-sanity", suite, reporter) {
		t.Error("csi-sanity failed")
	}
	for _, target := range targets {
		target.count(t, report)
	}
}

// config is csi-sanity's. Its volume ids are in a form that the driver gives out,
// of a volume group that it knows: "not found" must be found out, not guessed
// from the form.
func (g Target) config() (*sanity.TestConfig, error) {
	vg, err := g.volumeGroup()
	if err != nil {
		return nil, err
	}
	config := sanity.NewTestConfig()
	config.Address = "unix://" + g.Endpoint
	if g.Controller != "" {
		config.ControllerAddress = "unix://" + g.Controller
		config.ControllerDialOptions = config.DialOptions
	}
	dir := filepath.Join(g.KubeletDir, "sanity")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	config.TargetPath = filepath.Join(dir, "target")
	config.StagingPath = filepath.Join(dir, "staging")
	config.TestVolumeSize = g.VolumeSize
	config.TestVolumeExpandSize = 2 * g.VolumeSize
	config.TestVolumeParameters = g.Parameters
	config.TestVolumeMutableParameters = g.Mutable
	config.TestNodeVolumeAttachLimit = true
	config.IDGen = &ids{vg: vg}
	if g.Block {
		config.TestVolumeAccessType = "block"
	}
	return &config, nil
}

// volumeGroup learns the UUID of the driver's volume group from the id of a volume.
func (g Target) volumeGroup() (string, error) {
	endpoint := g.Endpoint
	if g.Controller != "" {
		endpoint = g.Controller
	}
	conn, err := grpc.NewClient("unix://"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	c := csi.NewControllerClient(conn)
	ctx := context.Background()
	v, err := c.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:          "sanity-probe",
		CapacityRange: &csi.CapacityRange{RequiredBytes: g.VolumeSize},
		Parameters:    g.Parameters,
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		}},
	})
	if err != nil {
		return "", err
	}
	id := v.GetVolume().GetVolumeId()
	vg, _, _ := strings.Cut(id, "/")
	_, err = c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return vg, err
}

// ids makes ids as the driver does.
type ids struct {
	sanity.DefaultIDGenerator
	vg string
	n  int
}

// GenerateUniqueValidVolumeID implements sanity.IDGenerator.
func (i *ids) GenerateUniqueValidVolumeID() string {
	i.n++
	return fmt.Sprintf("%s/pvc-00000000-0000-0000-0000-%012d", i.vg, i.n)
}

// count holds the cases of a target that skipped themselves against the list.
func (g Target) count(t *testing.T, report types.Report) {
	t.Helper()
	ran, skipped := 0, map[string]string{}
	for _, s := range report.SpecReports {
		if s.LeafNodeType != types.NodeTypeIt || len(s.ContainerHierarchyTexts) == 0 || s.ContainerHierarchyTexts[0] != g.Name {
			continue
		}
		switch s.State {
		case types.SpecStateSkipped, types.SpecStatePending:
			why := s.Failure.Message
			if why == "" {
				why = "disabled in csi-sanity"
			}
			skipped[strings.Join(append(s.ContainerHierarchyTexts[1:], s.LeafNodeText), " ")] = why
		default:
			ran++
		}
	}
	t.Logf("csi-sanity, %s: %d cases ran, %d skipped themselves", g.Name, ran, len(skipped))
	if ran == 0 {
		t.Errorf("%s: no case ran", g.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(skipped)) {
		if g.Skips[name] == "" {
			t.Errorf("%s: %q skipped itself (%s) and is not in the list of known skips", g.Name, name, skipped[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(g.Skips)) {
		if skipped[name] == "" {
			t.Errorf("%s: %q is listed as a skip and ran", g.Name, name)
		}
	}
}
