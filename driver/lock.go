package driver

import (
	"context"
	"fmt"
	"sync"

	"github.com/lamina-csi/lamina/node/pool"
)

// keyLock lets one RPC at a time work on a volume's mounts.
type keyLock struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits under ctx and returns what releases the volume.
func (k *keyLock) lock(ctx context.Context, id pool.ID) (unlock func(), err error) {
	key := id.String()
	for {
		k.mu.Lock()
		busy, taken := k.held[key]
		if !taken {
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			done := make(chan struct{})
			k.held[key] = done
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(done)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, fmt.Errorf("volume %s: %w: an earlier call about it has not ended", id, pool.ErrPending)
		}
	}
}
