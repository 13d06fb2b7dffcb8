package server

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// localOnly refuses requests for a host that is not this machine's loopback,
// where the listener is bound to it: a web page whose name was made to resolve
// to 127.0.0.1 (DNS rebinding) is of the same origin as the node for the
// browser, and would reach what the loopback address keeps from others. On
// another address the network decides who reaches the node. bound is the
// listener's address, named the one that was configured.
func localOnly(bound, named string, next http.Handler) http.Handler {
	if !loopbackHost(hostOf(bound)) {
		return next
	}
	own := hostOf(named)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := hostOf(r.Host)
		// No browser leaves the name away; health checks over HTTP/1.0 do.
		if host == "" || loopbackHost(host) || strings.EqualFold(host, own) {
			next.ServeHTTP(w, r)
			return
		}
		writeText(w, http.StatusForbidden,
			"this node listens on a loopback address and answers requests for localhost only, not for the host that was asked for; "+
				"a proxy in front of it must send the Host header localhost")
	})
}

// loopbackHost reports whether a host, without a port, is this machine by
// itself. localhost and the names under it are the browser's own and never
// asked of a name server.
func loopbackHost(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// hostOf returns the host of HOST, HOST:PORT or a bracketed address.
func hostOf(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
}
