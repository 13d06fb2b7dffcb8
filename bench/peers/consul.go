package peers

import (
	"context"
	"fmt"

	"github.com/hashicorp/consul/api"
)

// ConsulLocks is Consul's lock: an entry that is acquired and released under a
// session, one for each caller.
type ConsulLocks struct {
	kv       *api.KV
	close    func()
	sessions []string // by caller
}

// NewConsulLocks opens a session for each caller at the agent, which has to
// allow that many connections of one client. Close what it returns.
func NewConsulLocks(ctx context.Context, addr string, callers int) (*ConsulLocks, error) {
	conf := api.DefaultConfig()
	conf.Address = addr
	conf.Transport.MaxIdleConnsPerHost = callers // else most calls would connect anew
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("peers: consul: %w", err)
	}
	l := &ConsulLocks{kv: client.KV(), close: conf.Transport.CloseIdleConnections}
	for range callers {
		id, _, err := client.Session().CreateNoChecks(&api.SessionEntry{TTL: peerSession.String()}, new(api.WriteOptions).WithContext(ctx))
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("peers: consul: a session: %w", err)
		}
		l.sessions = append(l.sessions, id)
	}
	return l, nil
}

// Take implements Locks.
func (l *ConsulLocks) Take(ctx context.Context, caller int, key string) (bool, error) {
	held, _, err := l.kv.Acquire(l.entry(caller, key), new(api.WriteOptions).WithContext(ctx))
	return held, err
}

// Give implements Locks.
func (l *ConsulLocks) Give(ctx context.Context, caller int, key string) (bool, error) {
	given, _, err := l.kv.Release(l.entry(caller, key), new(api.WriteOptions).WithContext(ctx))
	return given, err
}

func (l *ConsulLocks) entry(caller int, key string) *api.KVPair {
	return &api.KVPair{Key: key, Session: l.sessions[caller]}
}

// Close ends the connections. Sessions end with the agent.
func (l *ConsulLocks) Close() { l.close() }
