//go:build vm

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/test/agent"
	"github.com/lamina-csi/lamina/test/service"
)

const profile = "{disks: {minSize: 1Gi}}"

// serviceScenario is the agent's life as a service of Talos.
func serviceScenario(ctx context.Context) error {
	spec, err := readSpec()
	if err != nil {
		return err
	}
	k, err := startKubelet()
	if err != nil {
		return err
	}
	step("without dm_thin_pool Talos waits")
	if err := waits(spec); err != nil {
		return err
	}
	step("and an agent that runs all the same waits, and says for what")
	svc, err := startService(spec, "/run/service.log")
	if err != nil {
		return err
	}
	a, err := agent.Attach(ctx, kubeletDir)
	if err != nil {
		return err
	}
	if err := missingModule(ctx, a, svc); err != nil {
		return err
	}
	step("a pool, and kubelet's registration")
	if err := a.AwaitPool(ctx, "well", agent.Healthy); err != nil {
		return err
	}
	if err := registered(ctx); err != nil {
		return err
	}
	rss, err := resident(spec, "at rest")
	if err != nil {
		return err
	}
	if err := expect(rss < 20<<20, "%d bytes resident, 20 MiB are the bound", rss); err != nil {
		return err
	}
	step("volumes cross the mount namespaces")
	if err := volumes(ctx, a, k); err != nil {
		return err
	}
	if _, err := resident(spec, "after its first volumes"); err != nil {
		return err
	}
	return succession(ctx, spec, svc, a, k)
}

func waits(spec service.Spec) error {
	if err := errors.Join(setModprobe(""), unloadModule("dm_thin_pool")); err != nil {
		return err
	}
	got, err := spec.Waits("/")
	if err != nil {
		return err
	}
	return expect(strings.Join(got, " ") == "/sys/module/dm_thin_pool", "it waits for %v", got)
}

// missingModule: the pool's status says what to add to the machine configuration, and
// the pool is made when the module comes.
func missingModule(ctx context.Context, a *agent.Agent, svc *process) error {
	if err := a.WantPool(ctx, "fast", profile); err != nil {
		return err
	}
	const advice = "kind: KernelModuleConfig, name: dm_thin_pool"
	if err := a.AwaitPool(ctx, "waiting for its module", func(s *link.PoolStatus) bool {
		return s.GetHealth() == "error" && strings.Contains(s.GetError(), advice)
	}); err != nil {
		return err
	}
	if err := svc.says(ctx, advice); err != nil {
		return err
	}
	if err := loadModule("dm_thin_pool"); err != nil {
		return err
	}
	// What else volumes need Talos' kernel has built in.
	return setModprobe("/init")
}

// registered asks as kubelet's plugin watcher does.
func registered(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+kubeletDir+"/plugins_registry/lamina.dev-reg.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	info, err := registration.NewRegistrationClient(conn).GetInfo(ctx, &registration.InfoRequest{})
	if err != nil {
		return err
	}
	return expect(info.GetName() == "lamina.dev" && info.GetEndpoint() == kubeletDir+"/plugins/lamina.dev/csi.sock", "it registers as %v", info)
}

// volumes makes volumes of several kinds and writes from the host what kubelet reads.
func volumes(ctx context.Context, a *agent.Agent, k *kubelet) error {
	for _, fs := range []string{"ext4", "xfs", "luks"} {
		v, err := makeVolume(ctx, a, fs)
		if err != nil {
			return fmt.Errorf("%s: %w", fs, err)
		}
		if err := seen(k, v, []byte(rand.Text())); err != nil {
			return fmt.Errorf("%s: %w", fs, err)
		}
		if err := unmount(ctx, k, v); err != nil {
			return fmt.Errorf("%s: %w", fs, err)
		}
		if err := v.Delete(ctx); err != nil {
			return err
		}
	}
	return nil
}

// makeVolume makes and mounts a volume; "luks" is encrypted.
func makeVolume(ctx context.Context, a *agent.Agent, name string) (agent.Volume, error) {
	if name != "luks" {
		v, err := a.Create(ctx, "fast", name, name, 512<<20, nil)
		if err != nil {
			return v, err
		}
		return v, v.Mount(ctx)
	}
	v, err := a.CreateWith(ctx, "fast", name, "ext4", 512<<20, map[string]string{"encryption": "luks2"})
	if err != nil {
		return v, err
	}
	v.Secrets = map[string]string{"passphrase": "correct horse"}
	return v, v.Mount(ctx)
}

// seen writes into a volume on the host's side and reads it on kubelet's.
func seen(k *kubelet, v agent.Volume, data []byte) error {
	if err := os.WriteFile(filepath.Join(v.Target(), "data"), data, 0o600); err != nil {
		return err
	}
	return has(k, v, data)
}

// has: kubelet sees the volume mounted, with that data.
func has(k *kubelet, v agent.Volume, data []byte) error {
	for _, path := range []string{v.Staging(), v.Target()} {
		if ok, err := k.mounted(path); err != nil || !ok {
			return fmt.Errorf("kubelet sees no mount at %s (%w)", path, err)
		}
	}
	got, err := k.read(filepath.Join(v.Target(), "data"))
	if err != nil {
		return err
	}
	return expect(bytes.Equal(got, data), "kubelet reads %q, not %q", got, data)
}

// unmount unmounts a volume, and kubelet sees it go.
func unmount(ctx context.Context, k *kubelet, v agent.Volume) error {
	if err := v.Unmount(ctx); err != nil {
		return err
	}
	for _, path := range []string{v.Staging(), v.Target()} {
		if still, err := k.mounted(path); err != nil || still {
			return fmt.Errorf("kubelet still sees a mount at %s (%w)", path, err)
		}
	}
	return nil
}
