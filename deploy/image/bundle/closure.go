package bundle

import "context"

// Closure asks the mirror, through apt and with signatures checked, for the
// newest packages of these names and all that they depend on, as packages of
// one set. Nothing is left out: the caller decides what it needs of them.
func Closure(ctx context.Context, root, set string, names ...string) (Lock, error) {
	unlock, err := LockCache(root)
	if err != nil {
		return nil, err
	}
	defer unlock()
	apt, err := newPrivateApt(ctx, NewStore(root), AMD64)
	if err != nil {
		return nil, err
	}
	return apt.closure(ctx, set, names...)
}
