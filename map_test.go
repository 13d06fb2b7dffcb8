package quern_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
)

// TestMapOnEveryWay works on one entry through the node itself, a client's
// stream, its unary calls, and HTTP: they see the same, and versions rise.
func TestMapOnEveryWay(t *testing.T) {
	t.Parallel()
	node, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(context.Background())
	ways := map[string]quern.MapEntry{"node": node.Map("k")}
	for name, o := range map[string]client.Options{"stream": {}, "unary": {Unary: true}} {
		c, err := client.DialWith(t.Context(), node.GRPCAddr(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ways[name] = c.Map("k")
	}
	last := uint64(0)
	for range 2 {
		for name, one := range ways {
			value := append([]byte(name), bytes.Repeat([]byte{0xff}, 1000)...)
			version, err := one.Put(t.Context(), value, handles.PutOptions{IfVersion: last})
			if err != nil || version <= last {
				t.Fatalf("%s: version %d after %d, %v", name, version, last, err)
			}
			last = version
			for other, o := range ways {
				if got, err := o.Get(t.Context()); err != nil || got.Version != version || !bytes.Equal(got.Value, value) {
					t.Errorf("put by %s, read by %s: %d bytes, version %d, %v", name, other, len(got.Value), got.Version, err)
				}
			}
			if _, err := one.Put(t.Context(), nil, handles.PutOptions{IfAbsent: true}); !errors.Is(err, failure.ConditionFailed) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := one.Put(t.Context(), make([]byte, grains.MaxValueBytes+1), handles.PutOptions{}); !errors.Is(err, failure.Limit) {
				t.Errorf("%s: too large: %v", name, err)
			}
			if version, swapped, err := one.CompareAndSwap(t.Context(), last+1, []byte("x")); swapped || version != last || err != nil {
				t.Errorf("%s: %d, %v, %v", name, version, swapped, err)
			}
		}
	}
	text := overHTTP(t, node, "Put", `{"key":"k","value":"/w==","ifVersion":"`+strconv.FormatUint(last, 10)+`"}`)
	got, err := ways["stream"].Get(t.Context())
	if err != nil || got.Version <= last || !bytes.Equal(got.Value, []byte{0xff}) || text != `{"version":"`+strconv.FormatUint(got.Version, 10)+`","found":true}` {
		t.Errorf("by HTTP: %s; then %+v, %v", text, got, err)
	}
	if err := ways["unary"].DeleteVersion(t.Context(), got.Version); err != nil {
		t.Error(err)
	}
	if text := overHTTP(t, node, "Get", `{"key":"k"}`); text != `{"value":"","version":"0","found":false}` {
		t.Error(text)
	}
	if version, err := node.Map("k").Put(t.Context(), nil, handles.PutOptions{}); err != nil || version <= got.Version {
		t.Errorf("made anew: %d after %d, %v", version, got.Version, err)
	}
}

func overHTTP(t *testing.T, node *quern.Node, method, body string) string {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+node.HTTPAddr()+"/quern.v1.MapService/"+method, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.Header.Get("quern-epoch") == "" {
		t.Errorf("%v: %v", r.Header, err)
	}
	return string(text)
}

// TestVersionsRiseOverARestart on disk, also of an entry that was gone.
func TestVersionsRiseOverARestart(t *testing.T) {
	t.Parallel()
	dir, last := t.TempDir(), map[string]uint64{}
	for range 3 {
		node, err := quern.Open(t.Context(), quern.Config{DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		kept, err := node.Map("kept").Get(t.Context())
		if err != nil || kept.Version != last["kept"] || kept.Found() && string(kept.Value) != "v" {
			t.Errorf("%+v, %v; last %v", kept, err, last)
		}
		for _, key := range []string{"kept", "gone"} {
			version, err := node.Map(key).Put(t.Context(), []byte("v"), handles.PutOptions{})
			if err != nil || version <= last[key] {
				t.Errorf("%s: %d after %d, %v", key, version, last[key], err)
			}
			last[key] = version
		}
		if found, err := node.Map("gone").Delete(t.Context()); !found || err != nil {
			t.Error(found, err)
		}
		if err := node.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyLargeValues reads more in one batch than a message may have.
func TestManyLargeValues(t *testing.T) {
	t.Parallel()
	node, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(context.Background())
	c, err := client.Dial(t.Context(), node.GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const n = 400
	value := bytes.Repeat([]byte("v"), grains.MaxValueBytes)
	puts, gets := handles.NewBatch(c), handles.NewBatch(c)
	answers := make([]handles.MapAnswer, n)
	for i := range n {
		puts.MapPut(strconv.Itoa(i), value)
		answers[i] = gets.MapGet(strconv.Itoa(i))
	}
	if err := puts.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := gets.Do(ctx); err != nil {
		t.Fatal(err)
	}
	for i, a := range answers {
		if v, err := a.Value(); err != nil || !bytes.Equal(v.Value, value) {
			t.Errorf("%d: %d bytes, %v", i, len(v.Value), err)
		}
	}
}

// TestWindowFullOfReads: a client that keeps to its window is not cut off,
// however large the answers are.
func TestWindowFullOfReads(t *testing.T) {
	t.Parallel()
	node, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory, Listen: "127.0.0.1:0", Shards: 16})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(context.Background())
	if _, err := node.Map("k").Put(t.Context(), make([]byte, 1000), handles.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(t.Context(), node.GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := handles.NewBatch(c)
	for range 40_000 {
		b.MapGet("k")
	}
	if err := b.Do(t.Context()); err != nil {
		t.Error(err)
	}
	if s := c.Stats(); s.Connects != 1 || s.Retries != 0 {
		t.Errorf("%d streams, %d retries", s.Connects, s.Retries)
	}
}
