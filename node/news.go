package node

// Told reports whether the pools that were wanted at some time have been
// reconciled: what is said of room in them is true from then on.
func (a *Agent) Told() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reached > 0
}

// Settled reports whether what is wanted now has been reconciled.
func (a *Agent) Settled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reached > 0 && a.reached == a.wants
}

// Changed is closed when the statuses may have changed.
func (a *Agent) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.news
}

// Touch says that the statuses may have changed.
func (a *Agent) Touch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.news)
	a.news = make(chan struct{})
}
