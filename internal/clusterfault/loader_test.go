package clusterfault

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/clusterproc"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// What all loaders do.
const (
	keys  = 1000
	locks = 50
	// lockTTL is the lease of locks, which are given back at once.
	lockTTL = 3 * time.Second
	// opTimeout bounds an operation, grace what is under way when a window ends.
	opTimeout = 8 * time.Second
	grace     = time.Second
	// maxOutstanding bounds what a loader has under way. It does not send what
	// is due beyond that.
	maxOutstanding = 8000
)

func counterKey(i uint32) string { return "cluster:" + strconv.Itoa(int(i)) }
func lockKey(i uint32) string    { return "lock:" + strconv.Itoa(int(i)) }

// loaderConfig is what a loader is told at its start.
type loaderConfig struct {
	Side uint8  `json:"side"`
	Own  string `json:"own"` // the node of its side
	All  string `json:"all"` // all nodes, comma-separated
	Rate int    `json:"rate"`
	Seed uint64 `json:"seed"`
}

// loader is the clients on one side: one that knows the node of its side, and one
// that knows all nodes. It follows commands on stdin, and answers each by a line.
type loader struct {
	config  loaderConfig
	clients [2]*client.Client
	owners  atomic.Uint64 // names of lock owners given out
	seen    [16]atomic.Int64
	under   atomic.Int64 // operations under way

	mu  sync.Mutex
	ops []clusterproc.Op // guarded by mu
}

func loaderMain(config string) int {
	l := new(loader)
	if err := json.Unmarshal([]byte(config), &l.config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i, target := range []string{l.config.Own, l.config.All} {
		c, err := client.Dial(ctx, target)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer c.Close()
		l.clients[i] = c
	}
	fmt.Fprintln(os.Stdout, "ready")
	if err := l.follow(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// follow carries out commands until stdin ends.
func (l *loader) follow() error {
	var stop func() error
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		word, rest, _ := strings.Cut(commands.Text(), " ")
		answer := "ok"
		switch word {
		case "begin":
			stop = l.begin(rest)
		case "end":
			if err := stop(); err != nil {
				return err
			}
		case "seen":
			answer = ""
			for node := range l.seen {
				answer += strconv.FormatInt(l.seen[node].Load(), 10) + " "
			}
		}
		fmt.Fprintln(os.Stdout, answer)
	}
	return commands.Err()
}

// begin starts the load. stop ends it, waits for what is under way and writes
// all operations to a file.
func (l *loader) begin(file string) (stop func() error) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		l.run(quit)
	}()
	return func() error {
		close(quit)
		<-ended
		l.mu.Lock()
		defer l.mu.Unlock()
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		defer f.Close()
		w := clusterproc.NewOpWriter(f)
		for i := range l.ops {
			if err := w.Write(&l.ops[i]); err != nil {
				return err
			}
		}
		l.ops = nil
		return w.Flush()
	}
}

// run sends operations when they are due, however long earlier ones take, until
// quit is closed and all are answered or given up.
func (l *loader) run(quit <-chan struct{}) {
	random := rand.New(rand.NewPCG(l.config.Seed, l.owners.Add(1)))
	every := time.Second / time.Duration(l.config.Rate)
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var all sync.WaitGroup
	defer func() {
		timer := time.AfterFunc(grace, cancel)
		defer timer.Stop()
		all.Wait()
	}()
	due := clusterproc.Now()
	for {
		for ; due <= clusterproc.Now(); due += int64(every) {
			if l.under.Load() > maxOutstanding {
				continue
			}
			op := clusterproc.Op{Side: l.config.Side, Due: due, Key: random.Uint32N(keys)}
			switch random.IntN(20) {
			case 0:
				op.Kind, op.Key = clusterproc.Grant, random.Uint32N(locks)
			case 1, 2, 3, 4, 5:
				op.Kind = clusterproc.Get
			}
			which := random.IntN(2)
			op.Only = which == 0
			l.under.Add(1)
			all.Go(func() {
				defer l.under.Add(-1)
				l.do(ctx, l.clients[which], op)
			})
		}
		select {
		case <-ticker.C:
		case <-quit:
			return
		}
	}
}

// do carries out one operation. A counter that did not answer is read until it
// does, so that it shows how long it did not; until, that is, the window ends.
func (l *loader) do(ctx context.Context, c *client.Client, op clusterproc.Op) {
	for answered := false; !answered && ctx.Err() == nil; {
		answered = l.once(ctx, c, op)
		op.Kind, op.Due = clusterproc.Get, clusterproc.Now()
	}
}

// once reports whether the operation was answered.
func (l *loader) once(ctx context.Context, c *client.Client, op clusterproc.Op) bool {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	op.Sent = clusterproc.Now()
	switch op.Kind {
	case clusterproc.Grant:
		l.lock(ctx, c, op)
		return true // it says nothing of a counter
	case clusterproc.Get:
		var reply quernv1.CounterServiceGetResponse
		request := &quernv1.CounterServiceGetRequest{Key: counterKey(op.Key)}
		return l.counter(ctx, c, op, &handles.Operation{Method: handles.CounterGet, Request: request, Reply: &reply}, &reply)
	default:
		var reply quernv1.CounterServiceAddResponse
		request := &quernv1.CounterServiceAddRequest{Key: counterKey(op.Key)}
		return l.counter(ctx, c, op, &handles.Operation{Method: handles.CounterAdd, Request: request, Reply: &reply}, &reply)
	}
}

// counter makes one call. After a failure its messages may still be in use.
func (l *loader) counter(ctx context.Context, c *client.Client, op clusterproc.Op, call *handles.Operation, reply interface{ GetValue() int64 }) bool {
	call.Key = counterKey(op.Key)
	err := c.Invoke(ctx, call)
	op.End, op.Outcome = clusterproc.Now(), outcomeOf(err)
	if err == nil {
		op.Value = reply.GetValue()
		op.Shard, op.Epoch, op.Node = call.Origin.Shard, call.Origin.Epoch, uint8(clusterproc.Number(call.Origin.Node))
		l.saw(op)
	}
	l.note(op)
	return err == nil
}

// lock asks for a lock, and gives it back at once. Where it is another's there
// is nothing to note.
func (l *loader) lock(ctx context.Context, c *client.Client, op clusterproc.Op) {
	lock := c.Lock(lockKey(op.Key))
	owner := strconv.Itoa(int(l.config.Side)) + "-" + strconv.FormatUint(l.owners.Add(1), 10)
	grant, err := lock.Grant(ctx, handles.LockOptions{Owner: owner, TTL: lockTTL, Wait: -1})
	op.End, op.Outcome, op.Value = clusterproc.Now(), outcomeOf(err), int64(grant.Token)
	if err != nil || !grant.Held {
		if err != nil {
			l.note(op)
		}
		return
	}
	l.note(op)
	op.Kind, op.Due, op.Sent = clusterproc.Release, op.End, clusterproc.Now()
	err = lock.Release(ctx, grant.Token)
	op.End, op.Outcome = clusterproc.Now(), outcomeOf(err)
	l.note(op)
}

func outcomeOf(err error) clusterproc.Outcome {
	switch {
	case err == nil:
		return clusterproc.Done
	case failure.OutcomeOf(err) == failure.NotDone:
		return clusterproc.NotDone
	default:
		return clusterproc.Unknown
	}
}

func (l *loader) note(op clusterproc.Op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, op)
}

// saw notes when the last operation was sent that a node has answered.
func (l *loader) saw(op clusterproc.Op) {
	if int(op.Node) >= len(l.seen) {
		return
	}
	for at := &l.seen[op.Node]; ; {
		before := at.Load()
		if before >= op.Sent || at.CompareAndSwap(before, op.Sent) {
			return
		}
	}
}
