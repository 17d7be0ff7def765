package sidecar

import (
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxPoll is how long an API that was installed may wait to be noticed.
const maxPoll = time.Minute

// served waits until the API server serves all kinds of a group's version. It is
// false when ctx ended before. An informer of a kind that is not served would
// never fill, and fill the log.
func (s *Sidecar) served(ctx context.Context, groupVersion string, kinds ...string) bool {
	said := ""
	for wait := s.firstPoll; ; wait = min(2*wait, maxPoll) {
		err := s.checkServed(ctx, groupVersion, kinds)
		if err == nil {
			return true
		}
		if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			s.log.Info("waiting for an API", "api", groupVersion, "reason", said)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

func (s *Sidecar) checkServed(ctx context.Context, groupVersion string, kinds []string) error {
	list, err := s.config.Client.Discovery().ServerResourcesForGroupVersionWithContext(ctx, groupVersion)
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%s is not installed", groupVersion)
	}
	if err != nil {
		return fmt.Errorf("discover %s: %w", groupVersion, err)
	}
	for _, kind := range kinds {
		if !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == kind }) {
			return fmt.Errorf("%s has no %s", groupVersion, kind)
		}
	}
	return nil
}
