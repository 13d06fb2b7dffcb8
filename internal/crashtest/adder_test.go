package crashtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
)

const (
	adderRole    = "adder"
	adderWorkers = 8
	adderKeys    = 64
	addrEnv      = "QUERN_CRASHTEST_ADDR"
	numberEnv    = "QUERN_CRASHTEST_NUMBER"
)

func adderKey(i int) string { return "crash:" + strconv.Itoa(i) }

// tally is what one adder knows of one key.
type tally struct {
	// Acked is the sum of the deltas that were acknowledged.
	Acked int64 `json:"acked"`
	// Unknown is the sum of those whose outcome was not learnt.
	Unknown int64 `json:"unknown"`
	// Seen is the highest value that any reply showed.
	Seen int64 `json:"seen"`
	// Refused is the sum of the deltas that were said to be not done, by what
	// was said. It explains a value that is too high.
	Refused map[string]int64 `json:"refused,omitempty"`
	// Spans are what the acknowledged adds did, where that was kept.
	Spans []span `json:"spans,omitempty"`
}

// adder is one client process at work.
type adder struct {
	client *client.Client
	number string
	stop   <-chan struct{}

	mu     sync.Mutex
	tallys map[string]*tally // guarded by mu
	ids    int               // guarded by mu
}

// adderMain is the adder's process. It adds until its stdin is closed, printing
// a line per acknowledged add, and then what it knows of every key.
func adderMain() int {
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent at the latest
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(ctx, os.Getenv(addrEnv))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer c.Close()
	seed, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	a := &adder{client: c, number: os.Getenv(numberEnv), stop: stop, tallys: make(map[string]*tally)}
	var all sync.WaitGroup
	for w := range uint64(adderWorkers) {
		all.Go(func() { a.work(rand.New(rand.NewPCG(seed, w))) })
	}
	all.Wait()
	report, err := json.Marshal(a.tallys)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintf(os.Stdout, "result %s\n", report)
	return 0
}

// work adds until it is told to stop. One add in four carries an idempotency
// key and is sent again until it is answered.
func (a *adder) work(chance *rand.Rand) {
	for {
		select {
		case <-a.stop:
			return
		default:
		}
		key, delta := adderKey(chance.IntN(adderKeys)), int64(1+chance.IntN(5))
		if chance.IntN(4) == 0 {
			a.addOnce(key, delta)
			continue
		}
		value, err := a.add(key, "", delta)
		a.record(key, delta, value, err)
		if err != nil {
			a.pause()
		}
	}
}

// addOnce repeats an add under one id until it is answered or the work is over.
func (a *adder) addOnce(key string, delta int64) {
	a.mu.Lock()
	a.ids++
	id := fmt.Sprintf("%s-%d", a.number, a.ids)
	a.mu.Unlock()
	var worst error
	for {
		value, err := a.add(key, id, delta)
		if err == nil {
			a.record(key, delta, value, nil)
			return
		}
		// What was unknown once stays so, whatever a later attempt is told.
		if worst == nil || failure.OutcomeOf(err) == failure.Unknown {
			worst = err
		}
		if !a.pause() {
			a.record(key, delta, 0, worst)
			return
		}
	}
}

func (a *adder) add(key, id string, delta int64) (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	counter := a.client.Counter(key)
	if id != "" {
		counter = counter.Once(id)
	}
	return counter.Add(ctx, delta)
}

func (a *adder) record(key string, delta, value int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.tallys[key]
	if t == nil {
		t = new(tally)
		a.tallys[key] = t
	}
	switch {
	case err == nil:
		t.Acked += delta
		t.Seen = max(t.Seen, value)
		fmt.Fprintln(os.Stdout, "ack")
	case failure.OutcomeOf(err) == failure.Unknown:
		t.Unknown += delta
	default:
		if t.Refused == nil {
			t.Refused = make(map[string]int64)
		}
		t.Refused[err.Error()] += delta
	}
}

// pause waits a moment before a failed call is repeated, and returns false when
// the work is over.
func (a *adder) pause() bool {
	timer := time.NewTimer(5 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-a.stop:
		return false
	case <-timer.C:
		return true
	}
}

// adders are the client processes of one test.
type adders struct {
	t       *testing.T
	acks    atomic.Int64
	changed chan struct{} // holds a token after acks rose
	procs   []*adderProc
}

type adderProc struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr strings.Builder // read after done is closed
	result map[string]tally
	done   chan struct{}
	err    error // valid when done is closed
}

// startAdders starts n client processes against an address.
func startAdders(t *testing.T, n int, addr string, chance *rand.Rand) *adders {
	t.Helper()
	return startAs(t, adderRole, n, addr, chance)
}

// startAs starts n client processes in a role.
func startAs(t *testing.T, role string, n int, addr string, chance *rand.Rand) *adders {
	t.Helper()
	all := &adders{t: t, changed: make(chan struct{}, 1)}
	for i := range n {
		p := &adderProc{done: make(chan struct{})}
		p.cmd = exec.CommandContext(t.Context(), os.Args[0])
		p.cmd.Env = append(os.Environ(), roleEnv+"="+role, addrEnv+"="+addr,
			numberEnv+"="+strconv.Itoa(i), seedEnv+"="+strconv.FormatUint(chance.Uint64(), 10))
		p.cmd.Stderr = &p.stderr
		stdin, err := p.cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		p.stdin = stdin
		stdout, err := p.cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all.procs = append(all.procs, p)
		go all.follow(p, stdout)
	}
	return all
}

// follow reads what one adder prints until it ends.
func (a *adders) follow(p *adderProc, stdout io.Reader) {
	defer close(p.done)
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		if report, ok := strings.CutPrefix(lines.Text(), "result "); ok {
			p.err = json.Unmarshal([]byte(report), &p.result)
			continue
		}
		a.acks.Add(1)
		select {
		case a.changed <- struct{}{}:
		default:
		}
	}
	if err := p.cmd.Wait(); err != nil && p.err == nil {
		p.err = fmt.Errorf("adder: %w: %s", err, p.stderr.String())
	}
}

// wait returns when n more adds have been acknowledged.
func (a *adders) wait(n int64) {
	a.t.Helper()
	target := a.acks.Load() + n
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for a.acks.Load() < target {
		select {
		case <-a.changed:
		case <-timeout.C:
			a.t.Fatalf("clients got no further than %d of %d acknowledged adds", a.acks.Load(), target)
		}
	}
}

// finish lets the adders end and returns what they know together.
func (a *adders) finish() map[string]tally {
	a.t.Helper()
	for _, p := range a.procs {
		if err := p.stdin.Close(); err != nil {
			<-p.done
			a.t.Fatalf("a client ended early: %v, %v", err, p.err)
		}
	}
	sum := make(map[string]tally)
	for _, p := range a.procs {
		<-p.done
		if p.err != nil {
			a.t.Fatal(p.err)
		}
		if p.result == nil {
			a.t.Fatal("an adder reported nothing")
		}
		for key, one := range p.result {
			s := sum[key]
			s.Acked += one.Acked
			s.Unknown += one.Unknown
			s.Seen = max(s.Seen, one.Seen)
			s.Spans = append(s.Spans, one.Spans...)
			for why, delta := range one.Refused {
				if s.Refused == nil {
					s.Refused = make(map[string]int64)
				}
				s.Refused[why] += delta
			}
			sum[key] = s
		}
	}
	return sum
}
