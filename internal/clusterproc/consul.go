package clusterproc

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/quern-io/quern/internal/consulproc"
)

// Consul is a private Consul of one server that is on nobody's side. Its methods
// must not be called concurrently.
type Consul struct {
	p      *consulproc.Process
	folder string
}

// NewConsul takes over an agent that keeps its data in a folder.
func NewConsul(p *consulproc.Process, folder string) *Consul { return &Consul{p, folder} }

// Addr is where the agent is, as this process reaches it.
func (c *Consul) Addr() string { return c.p.Addr() }

// Log returns the end of what the agent has written.
func (c *Consul) Log() string { return c.p.Log() }

// Kill ends the agent at once.
func (c *Consul) Kill() { c.p.Kill() }

// Empty kills the agent, removes all that it kept and starts it again. It
// returns when the agent accepts writes.
func (c *Consul) Empty(ctx context.Context) error {
	c.p.Kill()
	if err := os.RemoveAll(c.folder); err != nil {
		return fmt.Errorf("clusterproc: %w", err)
	}
	return c.Again(ctx)
}

// Again starts an agent that was killed. It returns when that accepts writes.
func (c *Consul) Again(ctx context.Context) error {
	next, err := c.p.Again(ctx)
	if err != nil {
		return err //nolint:wrapcheck // says all there is to say
	}
	c.p = next
	return poll(ctx, nil, func() bool { return c.Put(ctx, "clusterproc", "") == nil })
}

// Put writes a key.
func (c *Consul) Put(ctx context.Context, key, value string) error {
	_, err := c.ask(ctx, http.MethodPut, "kv/"+key, []byte(value))
	return err
}

// Delete deletes a key as a hand would.
func (c *Consul) Delete(ctx context.Context, key string) error {
	_, err := c.ask(ctx, http.MethodDelete, "kv/"+key, nil)
	return err
}

// Pair is a key and its value.
type Pair struct {
	Key     string
	Value   []byte
	Session string
}

// List returns what is below a prefix, in the order of keys.
func (c *Consul) List(ctx context.Context, prefix string) ([]Pair, error) {
	out, err := c.ask(ctx, http.MethodGet, "kv/"+prefix+"?recurse&consistent", nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []struct{ Key, Value, Session string }
	if err := json.Unmarshal(out, &found); err != nil {
		return nil, fmt.Errorf("clusterproc: consul: %w", err)
	}
	var pairs []Pair
	for _, f := range found {
		value, err := base64.StdEncoding.DecodeString(f.Value)
		if err != nil {
			return nil, fmt.Errorf("clusterproc: consul: %s: %w", f.Key, err)
		}
		pairs = append(pairs, Pair{f.Key, value, f.Session})
	}
	return pairs, nil
}

// Holder returns the name of the session that holds a key; empty for none.
func (c *Consul) Holder(ctx context.Context, key string) (string, error) {
	pairs, err := c.List(ctx, key)
	if err != nil || len(pairs) == 0 || pairs[0].Session == "" {
		return "", err
	}
	out, err := c.ask(ctx, http.MethodGet, "session/info/"+pairs[0].Session, nil)
	if err != nil {
		return "", err
	}
	var sessions []struct{ Name string }
	if err := json.Unmarshal(out, &sessions); err != nil || len(sessions) == 0 {
		return "", err //nolint:wrapcheck // a session that is gone is none
	}
	return sessions[0].Name, nil
}

// Snapshot returns all that the servers have agreed on; Restore brings it back.
func (c *Consul) Snapshot(ctx context.Context) ([]byte, error) {
	return c.ask(ctx, http.MethodGet, "snapshot", nil)
}

// Restore replaces the servers' state by a snapshot.
func (c *Consul) Restore(ctx context.Context, snapshot []byte) error {
	_, err := c.ask(ctx, http.MethodPut, "snapshot", snapshot)
	return err
}

func (c *Consul) ask(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	return askConsul(ctx, nil, c.Addr(), method, path, body)
}

// askConsul makes one request on a connection of its own.
func askConsul(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), addr, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("clusterproc: consul: %w", err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("clusterproc: consul: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	out, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return nil, fmt.Errorf("clusterproc: consul: %w", err)
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("clusterproc: consul: %s: %w", path, os.ErrNotExist)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("clusterproc: consul: %s %s: %s: %s", method, path, resp.Status, out)
	}
	return out, nil
}
