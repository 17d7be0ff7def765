//go:build vm

// Command talos is what the tests of package real run in the virtual machine to play
// Talos: the agent as the extension service that Talos makes of our spec, with a
// kubelet in another mount namespace; csi-sanity in kubelet's place; and Talos' handling of LVM at boot and shutdown.
package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

func main() {
	scenarios := map[string]func(context.Context) error{
		"service": serviceScenario,
		"sanity":  sanityScenario,
		"udev":    udevScenario,
		"boot":    bootScenario,
	}
	if len(os.Args) != 2 || scenarios[os.Args[1]] == nil {
		fmt.Println("usage: talos SCENARIO")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	err := host()
	if err == nil {
		err = scenarios[os.Args[1]](ctx)
	}
	if err != nil {
		fmt.Println("FAILED:", err)
		for _, log := range logs {
			text, _ := os.ReadFile(log) // what there is of it
			fmt.Printf("--- %s\n%s\n", log, text[max(0, len(text)-8000):])
		}
		os.Exit(1)
	}
	fmt.Println("PASSED")
}

// logs are the files to show after a failure.
var logs []string

// step says what comes next and how long the last took, for people.
func step(what string) {
	fmt.Printf("%7.1fs %s\n", time.Since(begin).Seconds(), what)
}

var begin = time.Now()
