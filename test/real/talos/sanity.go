//go:build vm

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/lamina-csi/lamina/test/agent"
	"github.com/lamina-csi/lamina/test/invariant"
)

// sanityScenario has csi-sanity judge the service, as kubelet sees it.
func sanityScenario(ctx context.Context) error {
	spec, err := readSpec()
	if err != nil {
		return err
	}
	k, err := startKubelet()
	if err != nil {
		return err
	}
	svc, err := startService(spec, "/run/service.log")
	if err != nil {
		return err
	}
	a, err := agent.Attach(ctx, kubeletDir)
	if err != nil {
		return err
	}
	if err := a.MakePool(ctx, "fast", profile); err != nil {
		return err
	}
	step("csi-sanity")
	const test = "TestVMSanityThin"
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "sanity.test", "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), "LAMINA_ENDPOINT="+a.Socket, "LAMINA_KUBELET_DIR="+kubeletDir)
	cmd.Stdout = io.MultiWriter(os.Stdout, &out)
	cmd.Stderr = cmd.Stdout
	k.do(func() { err = cmd.Run() })
	if err != nil {
		return fmt.Errorf("csi-sanity: %w", err)
	}
	// A binary without that test succeeds too.
	if err := expect(bytes.Contains(out.Bytes(), []byte("--- PASS: "+test+" ")), "%s did not run", test); err != nil {
		return err
	}
	if _, err := resident(spec, "after csi-sanity"); err != nil {
		return err
	}
	step("nothing is left")
	if err := a.Close(); err != nil {
		return err
	}
	if err := svc.stop(); err != nil {
		return fmt.Errorf("stop the service: %w", err)
	}
	return invariant.Check(ctx, invariant.Machine(nil))
}
