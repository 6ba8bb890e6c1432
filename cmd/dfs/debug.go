package main

import (
	"net"
	"net/http"
	"net/http/pprof"

	"github.com/spf13/cobra"

	"dfs/internal/errors"
)

// addDebugFlag adds the hidden flag --debug-listen.
func addDebugFlag(c *cobra.Command, addr *string) {
	c.Flags().StringVar(addr, "debug-listen", "", "serve Go's profiles (net/http/pprof) on this loopback host:port")
	_ = c.Flags().MarkHidden("debug-listen")
}

// serveDebug serves the profiles until the process ends; "" serves none.
func serveDebug(addr string) error {
	if addr == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return usageError{errors.New(errors.KindInvalid, "--debug-listen %q: want a loopback host:port", addr)}
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return errors.New(errors.KindBusy, "listening for profiles on %s: %w", addr, err)
	}
	routes := http.NewServeMux()
	routes.HandleFunc("/debug/pprof/", pprof.Index)
	routes.HandleFunc("/debug/pprof/profile", pprof.Profile)
	routes.HandleFunc("/debug/pprof/trace", pprof.Trace)
	go func() { _ = http.Serve(l, routes) }()
	return nil
}
