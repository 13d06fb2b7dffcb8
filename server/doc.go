// Package server is a node's network face: one implementation of the services
// behind two listeners.
//
// # Listeners
//
// The gRPC listener is for programs: the services, grpc.health.v1 and server
// reflection over google.golang.org/grpc. On the same port it takes streams over
// connections of their own (package frameconn), which it tells from gRPC's by
// their first byte. The HTTP listener is for people,
// browsers and tools: the same services as JSON, gRPC-Web and Connect over
// HTTP/1.1 and unencrypted HTTP/2, and /metrics, /healthz and /readyz. No
// cross-origin request is allowed, since there is no authentication yet.
//
// # The way of a call
//
//	decode → admit → deadline → Backend.Invoke → headers → reply or status
//
// The services hold no rule of their own: they put a request into a
// handles.Operation, and the backend validates it. All calls go through
// [caller.run], which does what every call needs: admission, panics, metrics,
// headers and errors. What differs between the transports is behind the small
// interface face.
//
// # Watches
//
// A watch is a call that lasts. It has bounds of its own, Config.MaxWatches and
// MaxWatchesPerConn, and no part in those of calls. Stop ends it with STOPPING.
// What differs between the transports is behind sink: gRPC, Connect with
// gRPC-Web, and lines of JSON for whoever posts plain JSON. An event is encoded
// once for all who watch its key.
//
// # What is refused before any work
//
// A message that does not decode or is too large, a call whose deadline has
// passed, a call above the limit in flight (OVERLOADED) and a call to a node
// that ends (STOPPING). The backend never hears of these: nothing changed.
//
// # Metrics
//
//   - quern_server_requests_total{transport,method,reason}: transport is grpc
//     or http, method as in counter.Add, reason OK or a failure's;
//   - quern_server_request_seconds{transport,method}: a histogram of the time
//     in the backend, of all calls that were admitted;
//   - quern_server_watches: the watches that are open;
//   - quern_server_calls_in_flight, quern_server_connections{transport}.
//   - quern_server_calls_in_flight; quern_server_connections{transport}, where
//     frames are streams over connections of their own.
//
// # Bounds
//
// Config names the bounds of messages, calls, streams and connections. What
// they leave open: a client that sends half a message over gRPC and then
// falls silent, but answers pings, keeps its streams; they cost at most a
// message each and are bounded by MaxStreams and MaxConns.
//
// # States
//
//	new ──Start──► serving ──Stop──► stopping ──► stopped
//	 └──────────────Stop───────────────────────────▲
//
// While it is stopping the listeners stay open until the calls under way have
// finished, and every new call is refused with STOPPING; health says
// NOT_SERVING and /readyz 503 from the first moment on. Then the connections
// are closed: gRPC clients get a GOAWAY, streams their end with a reason, HTTP clients the end of their idle
// connections, and who does not leave within a second is cut off.
package server
