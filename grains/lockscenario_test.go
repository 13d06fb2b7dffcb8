package grains_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

var rewrite = flag.Bool("rewrite", false, "write what the scenarios in testdata print into them")

// TestLockScenarios plays the files of testdata/lock. A block is commands, a
// line of dashes, and what they print; lines that begin with # are comments.
//
//	acquire OWNER [ttl=10s] [wait=0s] [shared] [permits=N]
//	renew TOKEN [ttl=10s]         release TOKEN|OWNER      force REASON
//	cancel OWNER                  its caller goes away
//	pass D                        time passes
//	deaf OWNER…                   their calls are woken in vain, from now on
//	reload                        the record alone is left, and all callers go
//
// What a command prints comes first, then, indented, the answers to calls that
// had waited. Each block ends with who holds the lock and for how long, and who
// waits.
func TestLockScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/lock/*.txt")
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
			got := playLock(t, string(content))
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

// playLock returns a scenario with what its commands print.
func playLock(t *testing.T, scenario string) string {
	t.Helper()
	s := newLockSim(t)
	var out, late strings.Builder
	s.said = func(owner string, a *quernv1.LockServiceAcquireResponse, err error) {
		fmt.Fprintf(&late, "  %s: %s\n", owner, toldAcquire(a, err))
	}
	blocks := strings.Split(strings.TrimSpace(scenario), "\n\n")
	for i, block := range blocks {
		if i > 0 {
			out.WriteByte('\n')
		}
		commands, _, played := strings.Cut(block+"\n", "----\n")
		out.WriteString(commands)
		if !played && !hasCommand(commands) {
			continue
		}
		out.WriteString("----\n")
		for line := range strings.Lines(commands) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				out.WriteString(lockCommand(t, s, strings.Fields(line)))
				out.WriteString(late.String())
				late.Reset()
			}
		}
		out.WriteString(s.String() + "\n")
	}
	return out.String()
}

func hasCommand(lines string) bool {
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return true
		}
	}
	return false
}

// lockCommand runs one line of a scenario and returns what it prints itself.
func lockCommand(t *testing.T, s *lockSim, words []string) string {
	t.Helper()
	name, args := words[0], words[1:]
	say := func(line string) string { return strings.Join(words[:min(2, len(words))], " ") + ": " + line + "\n" }
	switch name {
	case "acquire":
		a := &quernv1.LockServiceAcquireResponse{}
		err := s.call(parseAcquire(t, args), a)
		return fmt.Sprintf("%s: %s\n", args[0], toldAcquire(a, err))
	case "renew":
		a := &quernv1.LockServiceRenewResponse{}
		q := parseAcquire(t, args)
		err := s.call(&quernv1.LockServiceRenewRequest{Token: number(t, args[0]), Ttl: q.GetTtl()}, a)
		return say(told(err, "%s has it for %v", a.GetOwner(), a.GetTtl().AsDuration()))
	case "release":
		q := &quernv1.LockServiceReleaseRequest{}
		if token, err := strconv.ParseUint(args[0], 10, 64); err == nil {
			q.Token = token
		} else {
			q.Owner = args[0]
		}
		a := &quernv1.LockServiceReleaseResponse{}
		err := s.call(q, a)
		return say(told(err, "%s had it", a.GetOwner()))
	case "force":
		a := &quernv1.LockServiceForceReleaseResponse{}
		err := s.call(&quernv1.LockServiceForceReleaseRequest{Reason: strings.Join(args, " ")}, a)
		return "force: " + told(err, "%d ended", a.GetReleased()) + "\n"
	case "cancel":
		s.cancel(args[0])
	case "pass":
		s.advance(span(t, args[0]))
	case "deaf":
		for _, owner := range args {
			s.deaf[owner] = true
		}
	case "reload":
		s.reload()
	default:
		t.Fatalf("no command %q", name)
	}
	return ""
}

func parseAcquire(t *testing.T, args []string) *quernv1.LockServiceAcquireRequest {
	t.Helper()
	q := &quernv1.LockServiceAcquireRequest{Key: "k", Owner: args[0], Ttl: seconds(10 * time.Second)}
	for _, arg := range args[1:] {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "ttl":
			q.Ttl = seconds(span(t, value))
		case "wait":
			q.Wait = seconds(span(t, value))
		case "shared":
			q.Shared = true
		case "permits":
			q.Permits = uint32(number(t, value))
		default:
			t.Fatalf("no option %q", arg)
		}
	}
	return q
}

func span(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
