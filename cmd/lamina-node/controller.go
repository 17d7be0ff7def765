package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"github.com/lamina-csi/lamina/driver/link"
)

// controller is how to reach the controller.
type controller struct {
	Address, CA, Token, Name string
}

func (c *controller) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.Address, "controller", "", "host:port of the controller to link to")
	f.StringVar(&c.CA, "controller-ca", "", "file of the CA that the controller's certificate is checked against")
	f.StringVar(&c.Token, "controller-token", "", "file of the ServiceAccount token that is shown to the controller")
	f.StringVar(&c.Name, "controller-name", "lamina-controller.lamina-system.svc", "name that the controller's certificate is for")
}

// complete refuses what cannot work.
func (c *controller) complete() error {
	if c.Address == "" {
		if c.CA != "" || c.Token != "" {
			return errors.New("--controller-ca and --controller-token need --controller")
		}
		return nil
	}
	if host, port, err := net.SplitHostPort(c.Address); err != nil || host == "" || port == "" {
		return fmt.Errorf("--controller %q is not host:port", c.Address)
	}
	if c.CA == "" || c.Token == "" || c.Name == "" {
		return errors.New("--controller needs --controller-ca, --controller-token and --controller-name")
	}
	return nil
}

func (c *controller) dial(log *slog.Logger) link.DialConfig {
	return link.DialConfig{Address: c.Address, ServerName: c.Name, CAFile: c.CA, TokenFile: c.Token, Log: log}
}
