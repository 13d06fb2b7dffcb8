package clustertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/cluster"
)

const (
	historyNodes  = 3
	historyShards = 6
	// historyDelay is longer than a history takes, so that what it says does
	// not depend on how fast the server is.
	historyDelay = time.Minute
)

// History lets a few nodes make calls that are drawn from the seed, on locks as
// they are and as they were, while an operator ends sessions, deletes keys,
// saves and restores. It returns what each step did and what the table was
// then, in words that do not depend on names and numbers of the server's own:
// two servers that behave alike give the same history.
func History(tb testing.TB, server Server, seed uint64, steps int) []string {
	tb.Helper()
	h := &history{
		TB: tb, server: server, draw: rand.New(rand.NewPCG(seed, 0)), //nolint:gosec // to be drawn again from the seed
		sessions: map[cluster.Session]string{"": "-"}, owners: map[cluster.Incarnation]string{{}: "-"},
	}
	var cancel context.CancelFunc
	h.ctx, cancel = context.WithTimeout(tb.Context(), historyDelay)
	defer cancel()
	for i := range historyNodes {
		n := &historian{Authority: server.Connect(tb, "history", time.Hour), self: newMember(fmt.Sprintf("n%d", i))}
		h.nodes = append(h.nodes, n)
		h.owners[n.self.Incarnation] = n.self.Name
		h.join(n)
	}
	h.restore = server.Save(tb)
	h.look()
	for range steps {
		h.log = append(h.log, h.step()+"  "+h.look())
	}
	return h.log
}

type history struct {
	testing.TB

	ctx      context.Context //nolint:containedctx // the test's own, for its length
	server   Server
	draw     *rand.Rand
	nodes    []*historian
	restore  func(testing.TB)
	sessions map[cluster.Session]string
	owners   map[cluster.Incarnation]string
	tables   []cluster.Table
	epoch    uint64
	log      []string
}

// historian is a node of a history.
type historian struct {
	cluster.Authority

	self    cluster.Member
	session cluster.Session
	joined  int
}

func (h *history) join(n *historian) {
	h.Helper()
	session, err := n.Join(h.ctx, n.self, historyDelay)
	if err != nil {
		h.Fatalf("join: %v", err)
	}
	n.session = session
	n.joined++
	h.sessions[session] = fmt.Sprintf("%s.%d", n.self.Name, n.joined)
}

// step makes one call and says what came of it. A node whose session was lost
// joins again.
func (h *history) step() string {
	n := h.nodes[h.draw.IntN(len(h.nodes))]
	said := h.call(n, h.sessions[n.session])
	if strings.HasSuffix(said, sessionLost) {
		h.join(n)
	}
	return said
}

const sessionLost = " (session lost)"

func (h *history) call(n *historian, what string) string {
	switch d := h.draw.IntN(100); {
	case d < 15:
		return what + " creates" + h.words(n.Create(h.ctx, h.writes(n)))
	case d < 50:
		return what + " acquires" + h.words(n.Acquire(h.ctx, n.session, h.writes(n)))
	case d < 68:
		return what + " releases" + h.words(n.Release(h.ctx, n.session, h.writes(n)))
	case d < 78:
		return what + " proves" + h.words(n.Prove(h.ctx, n.session, h.shards()))
	case d < 82:
		leads, err := n.Lead(h.ctx, n.session)
		return fmt.Sprint(what, " leads ", leads, h.class(err))
	case d < 88:
		_, err := n.PutPlacement(h.ctx, n.session, h.sighting().Placement.Index, fmt.Append(nil, h.draw.IntN(3)))
		return what + " places" + h.class(err)
	case d < 91:
		shard := h.shards()[0]
		h.server.DeleteLock(h, "history", shard)
		return fmt.Sprint("delete ", shard)
	case d < 96:
		h.server.EndSession(h, n.session)
		h.join(n)
		return "end " + what
	case d < 98:
		h.restore = h.server.Save(h)
		return "save"
	default:
		h.restore(h)
		return "restore"
	}
}

// shards draws some shards, one at least.
func (h *history) shards() []uint32 {
	var shards []uint32
	for _, s := range h.draw.Perm(historyShards)[:1+h.draw.IntN(historyShards)] {
		shards = append(shards, uint32(s)) //nolint:gosec // below historyShards
	}
	return shards
}

// sighting is mostly the table of now, and sometimes an older one.
func (h *history) sighting() cluster.Table {
	back := 0
	if h.draw.IntN(3) == 0 {
		back = h.draw.IntN(min(len(h.tables), 5))
	}
	return h.tables[len(h.tables)-1-back]
}

// writes draws what to write. Sometimes it is what is there already.
func (h *history) writes(n *historian) []cluster.LockWrite {
	table, same := h.sighting(), h.draw.IntN(4) == 0
	var locks []cluster.LockWrite
	for _, shard := range h.shards() {
		lock, _ := table.Lock(shard)
		h.epoch++
		value := cluster.LockValue{Epoch: h.epoch, Owner: n.self.Incarnation}
		if same {
			value = lock.Value
		}
		locks = append(locks, cluster.LockWrite{Shard: shard, Index: lock.Index, Value: value})
	}
	return locks
}

func (h *history) words(results []cluster.Result, err error) string {
	var b strings.Builder
	for _, r := range results {
		fmt.Fprintf(&b, " %d:%v", r.Shard, r.Verdict)
	}
	return b.String() + h.class(err)
}

func (h *history) class(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, cluster.ErrSessionLost):
		return sessionLost
	case errors.Is(err, cluster.ErrIndexMoved):
		return " (index moved)"
	default:
		h.Fatalf("after %q: %v", h.log, err)
		return ""
	}
}

// look reads the table and says what it holds, and which indexes have changed
// in which direction.
func (h *history) look() string {
	table, err := h.nodes[0].Table(h.ctx, cluster.Watch{})
	if err != nil {
		h.Fatalf("table: %v", err)
	}
	last := table
	if len(h.tables) > 0 {
		last = h.tables[len(h.tables)-1]
	}
	h.tables = append(h.tables, table)
	var b strings.Builder
	if len(table.Locks)+len(last.Locks) > 0 { // else it is the index of whatever else is there
		fmt.Fprintf(&b, "[%s]", direction(last.Index, table.Index))
	}
	for _, lock := range table.Locks {
		before, _ := last.Lock(lock.Shard)
		fmt.Fprintf(&b, " %d%s %d by %s, %s;", lock.Shard, direction(before.Index, lock.Index),
			lock.Value.Epoch, h.owners[lock.Value.Owner], h.sessions[lock.Holder])
	}
	fmt.Fprintf(&b, " led by %s, %q%s", h.sessions[table.Leader],
		table.Placement.Value, direction(last.Placement.Index, table.Placement.Index))
	return b.String()
}

func direction(from, to uint64) string {
	switch {
	case from < to:
		return "+"
	case from > to:
		return "-"
	default:
		return "="
	}
}
