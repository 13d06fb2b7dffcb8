package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/quern-io/quern/cluster"
)

const (
	// forget is for how long Consul lists a member that does not pass: the
	// shortest time that it takes.
	forget = time.Minute
	// agentCheck is the check of the machine's agent. It fails when the whole
	// machine is gone, of which nobody would tell the member's own check.
	agentCheck = "serfHealth"
	// The agent brings a new check to the servers on its own time: Join looks
	// again this soon at first, and at most this late.
	joinFirst, joinLast = 10 * time.Millisecond, 250 * time.Millisecond
)

// The fields of a member in the metadata of its service instance.
const (
	metaNode        = "node"
	metaIncarnation = "incarnation"
	metaHTTP        = "http"
	metaProtocol    = "protocol"
	metaState       = "state"
)

func (a *Authority) service() string { return "quern-" + a.cluster }

// instance is the id of a member's service instance and, after a prefix, of its
// check. It stands in paths of URLs, so characters that mean something there
// are replaced; the incarnation keeps it apart from others.
func (a *Authority) instance(m cluster.Member) string {
	name := strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '-' || r == '.' || r == '_' || '0' <= r && r <= '9' || 'a' <= r|0x20 && r|0x20 <= 'z') {
			return r
		}
		return '_'
	}, m.Name)
	return fmt.Sprintf("%s-%s-%s", a.service(), name, m.Incarnation)
}

// Join implements cluster.Membership.
func (a *Authority) Join(ctx context.Context, m cluster.Member, lockDelay time.Duration) (cluster.Session, error) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	registration, err := a.registration(m)
	if err != nil {
		return "", err
	}
	// Before it is known whether it succeeds: Leave is to undo it in any case.
	a.mu.Lock()
	a.id, a.self = registration.ID, m
	a.mu.Unlock()
	if err := a.api.Agent().ServiceRegisterOpts(registration, api.ServiceRegisterOpts{}.WithContext(ctx)); err != nil {
		return "", classify("register as a member", needsService, err)
	}
	session, err := a.openSession(ctx, registration.ID, lockDelay)
	if err != nil {
		return "", err
	}
	a.renewedNow(session)
	return session, nil
}

func (a *Authority) registration(m cluster.Member) (*api.AgentServiceRegistration, error) {
	host, text, err := net.SplitHostPort(m.Addr)
	if err != nil {
		return nil, fmt.Errorf("cluster/consul: address of member %s: %w", m.Name, err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("cluster/consul: address of member %s: %w", m.Name, err)
	}
	id := a.instance(m)
	registration := &api.AgentServiceRegistration{
		ID: id, Name: a.service(), Address: host, Port: int(port),
		Meta: map[string]string{
			metaNode: m.Name, metaIncarnation: m.Incarnation.String(), metaHTTP: m.HTTP,
			metaProtocol: strconv.FormatUint(uint64(m.Protocol), 10),
		},
		Check: &api.AgentServiceCheck{
			CheckID: checkID(id), TTL: a.checkTTL.String(), Status: api.HealthPassing,
			DeregisterCriticalServiceAfter: forget.String(),
		},
	}
	if m.State != "" {
		registration.Meta[metaState] = string(m.State)
	}
	return registration, nil
}

// Announce implements cluster.Membership. The member is registered again with
// other metadata: the agent keeps its check, which passes, and with it the
// session. A member that was taken out meanwhile must not come back by that, so
// the agent is asked for its check first.
func (a *Authority) Announce(ctx context.Context, s cluster.Session, state cluster.State) error {
	const what = "announce a state"
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	a.mu.Lock()
	m, id := a.self, a.id
	a.mu.Unlock()
	if s == "" || id == "" {
		return noSession(what)
	}
	if err := a.pass(ctx, id); err != nil {
		return err
	}
	m.State = state
	registration, err := a.registration(m)
	if err != nil {
		return err
	}
	err = a.api.Agent().ServiceRegisterOpts(registration, api.ServiceRegisterOpts{}.WithContext(ctx))
	return classify(what, needsService, err)
}

func checkID(instance string) string { return "check-" + instance }

// openSession opens a session as soon as the servers know of the check and find
// it passing.
func (a *Authority) openSession(ctx context.Context, id string, lockDelay time.Duration) (cluster.Session, error) {
	entry := &api.SessionEntry{
		Name: id, TTL: cluster.SessionTTL.String(), LockDelay: lockDelay, Behavior: api.SessionBehaviorRelease,
		NodeChecks: []string{agentCheck}, ServiceChecks: []api.ServiceCheck{{ID: checkID(id), Namespace: a.scope.namespace}},
	}
	for wait := joinFirst; ; wait = min(2*wait, joinLast) {
		session, _, err := a.api.Session().Create(entry, write(ctx))
		if err == nil {
			return cluster.Session(session), nil
		}
		if !contains(err, saysCheckMissing) && !contains(err, saysCheckCritical) {
			return "", classify("open a session", needsSessions, err)
		}
		if ended := sleep(ctx, wait); ended != nil {
			return "", classify("open a session", needsSessions, fmt.Errorf("%w: %w", ended, err))
		}
		// Telling the agent makes it tell the servers, and the check must not
		// end while it is waited for.
		if err := a.pass(ctx, id); err != nil {
			return "", err
		}
	}
}

// KeepAlive implements cluster.Membership.
func (a *Authority) KeepAlive(ctx context.Context, s cluster.Session) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	a.mu.Lock()
	id := a.id
	due := a.session != s || time.Since(a.renewed) >= cluster.SessionTTL/2
	a.mu.Unlock()
	if id == "" || s == "" {
		return fmt.Errorf("cluster/consul: keep alive: %w: never joined", cluster.ErrSessionLost)
	}
	// The check comes first: it is the agent's, which may answer while the
	// servers do not.
	if err := a.pass(ctx, id); err != nil || !due {
		return err
	}
	entry, _, err := a.api.Session().Renew(string(s), write(ctx))
	if err != nil {
		return classify("renew the session", needsSessions, err)
	}
	if entry == nil {
		return fmt.Errorf("cluster/consul: renew the session: %w", cluster.ErrSessionLost)
	}
	a.renewedNow(s)
	return nil
}

func (a *Authority) renewedNow(s cluster.Session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.session, a.renewed = s, time.Now()
}

// pass says that the member's check passes. The note never changes, since a
// new one would be a write for all servers.
func (a *Authority) pass(ctx context.Context, id string) error {
	q := (&api.QueryOptions{}).WithContext(ctx)
	err := a.api.Agent().UpdateTTLOpts(checkID(id), "", api.HealthPassing, q)
	if err == nil || denied(err) {
		return classify("pass the member's check", needsService, err)
	}
	status, ok := errors.AsType[api.StatusError](err)
	if ok && (status.Code == http.StatusNotFound || contains(err, saysNoTTL) || contains(err, saysUnknownCheck)) {
		return fmt.Errorf("cluster/consul: pass the member's check: %w: the agent has forgotten the member: %w", cluster.ErrSessionLost, err)
	}
	return classify("pass the member's check", needsService, err)
}

// Leave implements cluster.Membership.
func (a *Authority) Leave(ctx context.Context, s cluster.Session) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	a.mu.Lock()
	id := a.id
	a.mu.Unlock()
	var errs []error
	if s != "" {
		// What ends with the session is left alone for its delay.
		lead := &api.KVPair{Key: a.keys.leader(), Session: string(s)}
		_, _, err := a.api.KV().Release(lead, write(ctx))
		errs = append(errs, classify("give up the lead", needsKeys, err))
		_, err = a.api.Session().Destroy(string(s), write(ctx))
		errs = append(errs, classify("end the session", needsSessions, err))
	}
	if id != "" {
		q := (&api.QueryOptions{}).WithContext(ctx)
		err := a.api.Agent().ServiceDeregisterOpts(id, q)
		// One that is gone is what was asked for: 404, or words of older versions.
		if err != nil && !contains(err, "Unknown service") {
			errs = append(errs, classify("leave the members", needsService, err))
		}
	}
	return errors.Join(errs...)
}

// Members implements cluster.Membership.
func (a *Authority) Members(ctx context.Context, w cluster.Watch) (cluster.Members, error) {
	const what = "read the members"
	var (
		members cluster.Members
		entries []*api.ServiceEntry
	)
	index, fell, err := a.watch(ctx, w, func(q *api.QueryOptions) (meta *api.QueryMeta, err error) {
		entries, meta, err = a.api.Health().Service(a.service(), "", false, q)
		return meta, err //nolint:wrapcheck // classified below
	})
	if err != nil {
		return cluster.Members{}, classify(what, needsService, err)
	}
	members.Index, members.Fell = index, fell
	for _, entry := range entries {
		if m, ok := member(entry); ok {
			members.List = append(members.List, m)
		}
	}
	slices.SortFunc(members.List, func(x, y cluster.Member) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), slices.Compare(x.Incarnation[:], y.Incarnation[:]))
	})
	return members, nil
}

// Sessions implements cluster.Membership. A session has the name of its member's
// service instance.
func (a *Authority) Sessions(ctx context.Context) (map[cluster.Incarnation]bool, error) {
	const what = "read the sessions"
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	entries, meta, err := a.api.Session().List(query(ctx))
	if err == nil && meta.ResultsFilteredByACLs {
		err = errFiltered
	}
	if err != nil {
		return nil, classify(what, needsSessions, err)
	}
	alive := make(map[cluster.Incarnation]bool, len(entries))
	for _, entry := range entries {
		at := len(entry.Name) - len(cluster.Incarnation{}.String())
		if at < 0 || !strings.HasPrefix(entry.Name, a.service()+"-") {
			continue
		}
		if incarnation, err := cluster.ParseIncarnation(entry.Name[at:]); err == nil {
			alive[incarnation] = true
		}
	}
	return alive, nil
}

// member reads a service instance; ok is false for one that is not a member's,
// which somebody has registered under the service's name.
func member(entry *api.ServiceEntry) (m cluster.Member, ok bool) {
	meta := entry.Service.Meta
	incarnation, err := cluster.ParseIncarnation(meta[metaIncarnation])
	if err != nil || meta[metaNode] == "" {
		return cluster.Member{}, false
	}
	protocol, err := strconv.ParseUint(meta[metaProtocol], 10, 32)
	if err != nil {
		return cluster.Member{}, false
	}
	return cluster.Member{
		Name: meta[metaNode], Incarnation: incarnation, HTTP: meta[metaHTTP],
		Addr:     net.JoinHostPort(entry.Service.Address, strconv.Itoa(entry.Service.Port)),
		Protocol: uint32(protocol),
		State:    cluster.State(meta[metaState]),
		Passing:  passing(entry),
	}, true
}

// passing looks at the checks that a session depends on, and at no other: what
// an operator checks on a machine says nothing about who holds locks there.
func passing(entry *api.ServiceEntry) bool {
	own := false
	for _, check := range entry.Checks {
		switch check.CheckID {
		case checkID(entry.Service.ID):
			own = check.Status == api.HealthPassing
		case agentCheck:
			if check.Status == api.HealthCritical {
				return false
			}
		}
	}
	return own
}

// sleep waits for d or for the end of ctx, whose error it returns then.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
