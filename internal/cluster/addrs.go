package cluster

import (
	"net"
	"os"
	"strconv"
	"strings"

	"dfs/internal/errors"
)

// ParseAddrs splits "host:port,host:port,…" into its addresses. Space
// around them is ignored. Errors are of KindInvalid and name the faulty part:
// an empty list or part, a missing host or port, a port out of range, a double.
func ParseAddrs(s string) ([]string, error) {
	if strings.TrimSpace(s) == "" {
		return nil, errors.New(errors.KindInvalid, "no node addresses given; write them as host:port,host:port")
	}
	parts := strings.Split(s, ",")
	for i, part := range parts {
		parts[i] = strings.TrimSpace(part)
		if parts[i] == "" {
			return nil, errors.New(errors.KindInvalid, "address %d of %q is empty; write addresses as host:port,host:port", i+1, s)
		}
	}
	if err := checkAddrs(parts); err != nil {
		return nil, err
	}
	return parts, nil
}

func checkAddrs(addrs []string) error {
	if len(addrs) == 0 {
		return errors.New(errors.KindInvalid, "no node addresses given; write them as host:port,host:port")
	}
	seen := make(map[string]bool, len(addrs))
	for _, addr := range addrs {
		if err := checkAddr(addr); err != nil {
			return err
		}
		if seen[addr] {
			return errors.New(errors.KindInvalid, "node address %q is given twice", addr)
		}
		seen[addr] = true
	}
	return nil
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return errors.New(errors.KindInvalid, "node address %q is not host:port: %w", addr, err)
	}
	if host == "" {
		return errors.New(errors.KindInvalid, "node address %q lacks the host before the colon", addr)
	}
	if strings.ContainsAny(host, " \t/@") {
		return errors.New(errors.KindInvalid, "node address %q is not host:port", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New(errors.KindInvalid, "node address %q: port %q is not a number from 1 to 65535", addr, port)
	}
	return nil
}

// sameHost tells whether addr is on this machine, as far as that shows without
// asking a name server.
func sameHost(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	if ip == nil {
		name, err := os.Hostname()
		return err == nil && name == host
	}
	if ip.IsLoopback() {
		return true
	}
	local, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range local {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
			return true
		}
	}
	return false
}
