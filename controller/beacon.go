package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// LeaderLabel is on the leader's pod, with the value "true". The Service selects
// by it, so that agents reach the leader alone.
const LeaderLabel = "lamina.dev/leader"

const (
	beaconInterval = 30 * time.Second
	beaconRetry    = 2 * time.Second
	yieldTimeout   = 4 * time.Second // less than hardStop
)

// beacon keeps the leader's label where the leader is.
type beacon struct {
	client         kubernetes.Interface
	namespace, pod string
	log            *slog.Logger
}

// Run keeps the label on this pod and off all others until ctx ends, and then
// takes it off. A leader whose node died could not take its own off.
func (b *beacon) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		wait := beaconInterval
		if err := b.claim(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("agents may not find the leader", "error", err)
			wait = beaconRetry
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), yieldTimeout)
	defer cancel()
	if err := b.yield(ctx); err != nil {
		// The next leader does it, and this pod if it starts again.
		b.log.Warn("the label of the leader stays on this pod", "error", err)
	}
	return nil
}

func (b *beacon) claim(ctx context.Context) error {
	pods, err := b.client.CoreV1().Pods(b.namespace).List(ctx, metav1.ListOptions{LabelSelector: LeaderLabel})
	if err != nil {
		return fmt.Errorf("list the pods with label %s: %w", LeaderLabel, err)
	}
	var errs []error
	have := false
	for _, p := range pods.Items {
		if p.Name == b.pod {
			have = p.Labels[LeaderLabel] == "true"
		} else {
			errs = append(errs, b.label(ctx, p.Name, "null"))
		}
	}
	if !have {
		errs = append(errs, b.label(ctx, b.pod, `"true"`))
	}
	return errors.Join(errs...)
}

// yield takes the label off this pod.
func (b *beacon) yield(ctx context.Context) error { return b.label(ctx, b.pod, "null") }

// label sets the label to a JSON value; null removes it, also where there is none.
func (b *beacon) label(ctx context.Context, pod, value string) error {
	patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%s}}}`, LeaderLabel, value)
	_, err := b.client.CoreV1().Pods(b.namespace).Patch(ctx, pod, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) && value == "null" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set label %s of pod %s/%s to %s: %w", LeaderLabel, b.namespace, pod, value, err)
	}
	return nil
}
