package server_test

import (
	"bytes"
	"regexp"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
)

// fragile is a backend that comes to grief at a key. As every backend it answers
// what it was given nevertheless.
type fragile struct {
	*adding

	grief func()
	at    string
	armed atomic.Bool // Shards comes to grief
}

func (b *fragile) Shards() uint32 {
	if b.armed.CompareAndSwap(true, false) {
		b.grief()
	}
	return b.adding.Shards()
}

func (b *fragile) Submit(op *handles.Operation, deadline time.Time, done handles.Completer) {
	bad := op.Key == b.at
	b.adding.Submit(op, deadline, done)
	if bad {
		b.grief()
	}
}

func (b *fragile) SubmitWait(op *handles.Operation, deadline time.Time, done handles.Completer) func(bool) {
	b.Submit(op, deadline, done)
	return nil
}

func (b *fragile) SubmitAdds(a *handles.Adds) {
	bad := string(a.Spans[0].Of(a.Text)) == b.at
	b.adding.SubmitAdds(a)
	if bad {
		b.grief()
	}
}

// fragileAtOnce runs operations at once.
type fragileAtOnce struct{ *fragile }

func (b fragileAtOnce) Direct() handles.Direct { return b }

// Begin implements handles.Direct.
func (fragileAtOnce) Begin() {}

// Try implements handles.Direct.
func (b fragileAtOnce) Try(_ *handles.Operation, key []byte) (bool, error) {
	if string(key) == b.at {
		b.grief()
	}
	b.armed.Store(string(key) == "arm")
	return false, nil
}

// TestPanicBeneathAStream: the stream ends and says so, and nothing of it counts at
// the gate any more.
func TestPanicBeneathAStream(t *testing.T) { overBoth(t, panicBeneathAStream) }

func panicBeneathAStream(t *testing.T, converse converser) {
	t.Helper()
	for name, grief := range map[string]func(){
		"panic": func() {
			panic("boom") //nolint:forbidigo // the point of it
		},
		"end of the goroutine": runtime.Goexit,
	} {
		for where, test := range map[string]struct {
			atOnce bool
			say    *quernv1.GrainServiceStreamRequest
		}{
			"submitted":    {false, operations(addOf(t, 1, "a"), addOf(t, 2, "bad"), addOf(t, 3, "bad"), addOf(t, 4, "c"))},
			"column":       {false, columns(column(1, "a", "bad", "c"))},
			"run directly": {true, operations(addOf(t, 1, "a"), addOf(t, 2, "bad"), addOf(t, 3, "c"))},
			"prepared":     {true, operations(addOf(t, 1, "a"), addOf(t, 2, "arm"), addOf(t, 3, "c"))},
		} {
			set := metrics.NewSet()
			b := &fragile{adding: newAdding(false), grief: grief, at: "bad"}
			var to server.Backend = b
			if test.atOnce {
				to = fragileAtOnce{b}
			}
			k := converseMany(t, converse, to, func(c *server.Config) { c.Metrics = set })
			k.say(test.say)
			if got := k.reason(); got != failure.Internal {
				t.Errorf("%s, %s: the stream ended with %v", where, name, got)
			}
			if got := inFlight(t, set); got != "0" {
				t.Errorf("%s, %s: %s calls are counted after the stream's end", where, name, got)
			}
		}
	}
}

var gaugeInFlight = regexp.MustCompile(`(?m)^quern_server_calls_in_flight (.*)$`)

// inFlight is the gauge of that name.
func inFlight(t *testing.T, set *metrics.Set) string {
	t.Helper()
	var b bytes.Buffer
	set.WritePrometheus(&b)
	m := gaugeInFlight.FindSubmatch(b.Bytes())
	if m == nil {
		t.Fatalf("no such gauge in %s", b.Bytes())
	}
	return string(m[1])
}
