package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// audit reads the API server's audit log, which auditPolicy fills.
type audit struct {
	path   string
	offset int64 // up to which it has been read
	events []event
}

// event is a request that was answered (audit.k8s.io/v1).
type event struct {
	User     struct{ Username string } `json:"user"`
	Verb     string                    `json:"verb"`
	Received time.Time                 `json:"requestReceivedTimestamp"`
	Object   *struct {
		Resource, Subresource, Name string
	} `json:"objectRef"`
}

// kind is the verb and the resource.
func (e event) kind() string {
	if e.Object == nil {
		return e.Verb + " (no resource)"
	}
	kind := e.Verb + " " + e.Object.Resource
	if e.Object.Subresource != "" {
		kind += "/" + e.Object.Subresource
	}
	return kind
}

// write reports whether the request stores something. A TokenReview is a question,
// asked for each link.
func (e event) write() bool {
	if e.Object != nil && e.Object.Resource == "tokenreviews" {
		return false
	}
	return slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, e.Verb)
}

// steady reports whether a request has nothing to do with volumes or nodes: it is
// made every few seconds, whatever happens.
func (e event) steady() bool {
	if e.Object == nil {
		return true // discovery
	}
	// The leader's label is looked after each 30 seconds.
	return e.Object.Resource == "leases" || e.Object.Resource == "pods"
}

// read takes over what is new. A last line that is not complete comes next time.
func (a *audit) read() error {
	f, err := os.Open(a.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(a.offset, io.SeekStart); err != nil {
		return err
	}
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		a.offset += int64(len(line))
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("read the audit log: %w", err)
		}
		a.events = append(a.events, e)
	}
}

// quietFor is how long nothing must have been written. Events are sent by the
// recorder, and capacities after a pause, well within it.
const quietFor = 5 * time.Second

// quiet waits until the controller writes nothing any more, and tells when the
// last write since a moment was.
func (a *audit) quiet(ctx context.Context, since time.Time) (last time.Time, err error) {
	last = since
	begun := time.Now()
	err = poll(ctx, "the controller's last write", 15*time.Minute, func() (bool, error) {
		before := len(a.events)
		if err := a.read(); err != nil {
			return false, err
		}
		for _, e := range a.events[before:] {
			if e.User.Username == controllerUser && e.write() && !e.steady() && e.Received.After(last) {
				last = e.Received
			}
		}
		return time.Since(last) > quietFor && time.Since(begun) > quietFor, nil
	})
	return last, err
}

// since is what happened from a moment on, the controller's own and others'.
func (a *audit) since(t time.Time) (own, others []event) {
	for _, e := range a.events {
		switch {
		case e.Received.Before(t):
		case e.User.Username == controllerUser:
			own = append(own, e)
		default:
			others = append(others, e)
		}
	}
	return own, others
}
