package lease_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/cluster/lease"
)

var rewrite = flag.Bool("rewrite", false, "write what the scenarios in testdata print into them")

// TestScenarios plays the files of testdata. A block is commands, a line of
// dashes, and what the machine of node a decides on its one shard, each with
// its time; lines that begin with # are comments. The delay is 2 s, the margin
// 200 ms, a proof is due every 500 ms and a retry after 100 ms.
//
//	session ID | session lost     cluster ID BASE          want | unwant
//	read INDEX LOCK               LOCK is missing, or free@INDEX or held@INDEX by SESSION;
//	                              then #EPOCH, of OWNER, clean RECEIVER/HANDOFF; and stale
//	acquired @INDEX|refused|unclear                        rewritten the same; after @INDEX a
//	                              read shows it, unless it is followed by unread
//	raised [over EPOCH] | raised refused EPOCH | raised unclear
//	released | released unclear   giveup [RECEIVER/HANDOFF]
//	reraised EPOCH                 fenced EPOCH KNOWN
//	offered EPOCH HANDOFF         withdrawn HANDOFF        heard EPOCH
//	proofs found|unanswered       what becomes of proofs from now on, found at first
//	proved | missing              the answer to the oldest that is not answered
//	reads repeated|off            whether the last read is repeated every second, as it is at first
//	pass D                        time passes, and the machine is told when it wants to be
//	sleep D                       time passes, and the machine is not told
//
// Proofs that are found at once are not printed. A block ends with the time, and
// whether the shard may be answered for.
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := playScenario(t, string(content))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(content) {
				t.Errorf("%s is not what happens. With -rewrite it becomes:\n%s", file, got)
			}
		})
	}
}

func playScenario(t *testing.T, scenario string) string {
	t.Helper()
	s := newScene(t)
	var out strings.Builder
	for i, block := range strings.Split(strings.TrimSpace(scenario), "\n\n") {
		if i > 0 {
			out.WriteByte('\n')
		}
		commands, _, _ := strings.Cut(block+"\n", "----\n")
		out.WriteString(commands)
		played := false
		for line := range strings.Lines(commands) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				played = true
				s.command(strings.Fields(line))
			}
		}
		if played {
			out.WriteString("----\n" + s.said.String() + s.state())
			s.said.Reset()
		}
	}
	return out.String()
}

// scene is one machine, with what was asked of its shell and not answered yet.
type scene struct {
	t       *testing.T
	machine *lease.Machine
	now     time.Duration
	until   time.Duration
	last    *lease.Reading
	readAt  time.Duration
	silent  bool
	held    bool
	proofs  []lease.Prove
	acquire lease.Acquire
	rewrite lease.Rewrite
	raise   lease.Raise
	release lease.Release
	said    strings.Builder
}

func newScene(t *testing.T) *scene {
	t.Helper()
	m, err := lease.New(lease.Config{Shards: 1, Incarnation: "a"})
	if err != nil {
		t.Fatal(err)
	}
	return &scene{t: t, machine: m}
}

func (s *scene) state() string {
	if epoch, ok := s.machine.Serves(0, s.now); ok {
		return fmt.Sprintf("  [%v, serves #%d until %v]\n", s.now, epoch, s.until)
	}
	return fmt.Sprintf("  [%v, does not serve]\n", s.now)
}

func (s *scene) command(words []string) {
	m, now := s.machine, s.now
	name, args := words[0], append(words[1:], "", "", "")
	switch name {
	case "session":
		if args[0] == "lost" {
			args[0] = ""
		}
		s.take(m.SessionBegan(now, args[0]))
	case "cluster":
		s.take(m.Cluster(now, args[0], s.number(args[1])))
	case "want", "unwant":
		s.take(m.Want(now, 0, name == "want"))
	case "read":
		s.read(words[1:])
	case "offered":
		s.take(m.Offered(now, lease.Offer{Epoch: s.number(args[0]), Handoff: args[1]}))
	case "withdrawn":
		s.take(m.Withdrawn(now, 0, args[0]))
	case "heard":
		s.take(m.Heard(now, 0, s.number(args[0])))
	case "reraised":
		s.take(m.Reraised(now, 0, s.number(args[0])))
	case "fenced":
		s.take(m.Fenced(now, 0, s.number(args[0]), s.number(args[1])))
	case "giveup":
		to, id, _ := strings.Cut(args[0], "/")
		s.take(m.GiveUp(now, 0, lease.Clean{Receiver: to, Handoff: id}))
	case "proofs":
		s.held = args[0] == "unanswered"
	case "reads":
		s.silent = args[0] == "off"
	case "pass":
		s.pass(s.span(args[0]))
	case "sleep":
		s.now += s.span(args[0])
	default:
		s.answer(name, args)
	}
}

// answer plays what comes back.
func (s *scene) answer(name string, args []string) {
	m, now := s.machine, s.now
	outcome, index := s.outcome(args[0])
	switch name {
	case "acquired":
		s.take(m.Acquired(now, s.acquire, outcome, index))
		if outcome == lease.Done && args[1] != "unread" {
			a := s.acquire
			s.see(lease.Reading{Index: max(s.last.Index, index), Locks: []lease.Lock{{Index: index, Session: a.Session, Value: a.Value}}})
		}
	case "rewritten":
		s.take(m.Rewritten(now, s.rewrite, outcome, index))
	case "released":
		s.take(m.Released(now, s.release))
	case "raised":
		var row uint64
		if args[1] != "" {
			row = s.number(args[1])
		}
		s.take(m.Raised(now, s.raise, outcome, row))
	case "proved", "missing":
		if len(s.proofs) == 0 {
			s.t.Fatal("no proof is under way")
		}
		p := s.proofs[0]
		s.proofs = s.proofs[1:]
		var missing []uint32
		if name == "missing" {
			missing = []uint32{0}
		}
		s.take(m.Proved(now, p, missing))
	default:
		s.t.Fatalf("no command %q", name)
	}
}

func (s *scene) outcome(word string) (lease.Outcome, uint64) {
	switch {
	case word == "refused":
		return lease.Refused, 0
	case word == "unclear":
		return lease.Unclear, 0
	case strings.HasPrefix(word, "@"):
		return lease.Done, s.number(word[1:])
	default:
		return lease.Done, 0
	}
}

func (s *scene) read(words []string) {
	r := lease.Reading{Index: s.number(words[0])}
	var l lease.Lock
	kind, index, _ := strings.Cut(words[1], "@")
	if kind != "missing" {
		l.Index = s.number(index)
	}
	for i := 2; i < len(words); i++ {
		next := func() string { i++; return words[i] }
		switch word := words[i]; word {
		case "stale":
			r.Stale = true
		case "by":
			l.Session = next()
		case "of":
			l.Value.Owner = next()
		case "clean":
			l.Value.Clean.Receiver, l.Value.Clean.Handoff, _ = strings.Cut(next(), "/")
		default:
			l.Value.Epoch = s.number(strings.TrimPrefix(word, "#"))
		}
	}
	r.Locks = []lease.Lock{l}
	s.see(r)
}

func (s *scene) see(r lease.Reading) {
	if !r.Stale {
		s.last, s.readAt = &r, s.now
	}
	s.take(s.machine.Read(s.now, r))
}

// pass lets time pass as a good shell would.
func (s *scene) pass(d time.Duration) {
	for end := s.now + d; s.now < end; {
		wake := min(end, s.machine.Wake())
		again := s.last != nil && !s.silent && s.readAt+time.Second <= wake
		if again {
			wake = s.readAt + time.Second
		}
		s.now = max(s.now, wake)
		if again {
			s.readAt = s.now
			s.take(s.machine.Read(s.now, *s.last))
		}
		s.take(s.machine.Clock(s.now))
		if wake := s.machine.Wake(); wake <= s.now {
			s.t.Fatalf("at %v, after all was done, it wants to be told the time at %v", s.now, wake)
		}
	}
}

// take notes decisions and prints them.
func (s *scene) take(decisions []lease.Decision) {
	say := func(format string, args ...any) {
		fmt.Fprintf(&s.said, "%v %s\n", s.now, fmt.Sprintf(format, args...))
	}
	for _, d := range decisions {
		switch d := d.(type) {
		case lease.Create:
			say("create")
		case lease.Acquire:
			s.acquire = d
			say("acquire #%d under @%d", d.Value.Epoch, d.Index)
		case lease.Prove:
			if !s.held {
				s.take(s.machine.Proved(s.now, d, nil))
				continue
			}
			s.proofs = append(s.proofs, d)
			say("prove by %v", d.By)
		case lease.Rewrite:
			s.rewrite = d
			say("rewrite #%d under @%d", d.Value.Epoch, d.Index)
		case lease.Raise:
			s.raise = d
			say("raise #%d%s", d.Epoch, map[bool]string{true: fmt.Sprintf(" from #%d", d.From)}[d.From != 0])
		case lease.Serve:
			s.until = d.Until
			say("serve #%d until %v, %s", d.Epoch, d.Until, inherits(d.Inherit))
		case lease.Extend:
			if s.until = d.Until; s.held {
				say("extend until %v", d.Until)
			}
		case lease.Stop:
			say("stop #%d: %v", d.Epoch, d.Why)
		case lease.Release:
			s.release = d
			say("release #%d under @%d%s", d.Value.Epoch, d.Index, map[bool]string{true: fmt.Sprintf(" clean %v", d.Value.Clean)}[d.Value.Clean != lease.Clean{}])
		}
	}
}

// inherits says in words what an owner may start from.
func inherits(i lease.Inherit) string {
	var from []string
	if i.Keep {
		from = append(from, "its memory")
	}
	if i.Handoff != "" {
		from = append(from, "the copy of "+i.Handoff)
	}
	switch {
	case i.Replaces == 0 && i.Known == 0:
		from = append(from, "any states")
	case i.Replaces == 0:
		from = append(from, fmt.Sprintf("states of #%d or higher", i.Known))
	case i.Loads(i.Replaces):
		from = append(from, fmt.Sprintf("states of #%d", i.Replaces))
	}
	if len(from) == 0 {
		return "empty"
	}
	return "with " + strings.Join(from, " or ")
}

func (s *scene) span(word string) time.Duration {
	d, err := time.ParseDuration(word)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *scene) number(word string) uint64 {
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}
