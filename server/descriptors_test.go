package server

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestDescriptors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		limit, maxConns int64
		budget, share   int64
	}{
		{0, 65_536, 0, 65_536}, // unknown
		{1_024, 65_536, 512, 448},
		{4_096, 65_536, 2_896, 2_534},
		{20_000, 65_536, 17_500, 15_313},
		{20_000, 10_000, 17_500, 10_000},
		{1 << 20, 65_536, 1<<20 - 4_096, 65_536},
	} {
		d := newDescriptors(test.limit)
		if got := d.share(int(test.maxConns)); d.budget != test.budget || got != test.share {
			t.Errorf("of %d: budget %d, share %d, want %d and %d", test.limit, d.budget, got, test.budget, test.share)
		}
	}
}

func TestDescriptorsAreSharedByListeners(t *testing.T) {
	t.Parallel()
	d := &descriptors{budget: 16}
	one, two := &listener{limit: d.share(100), all: d}, &listener{limit: d.share(100), all: d}
	fill := func(l *listener) (n int) {
		for l.enter() {
			n++
		}
		return n
	}
	if n := fill(one); n != 14 {
		t.Errorf("one listener took %d of 16, want all but an eighth", n)
	}
	if n := fill(two); n != 2 {
		t.Errorf("the other got %d, want what was left", n)
	}
	one.leave()
	if !two.enter() || two.enter() || d.open.Load() != 16 {
		t.Error("what one gave back, the other takes once")
	}
}

func TestBoundByOpenFilesIsLogged(t *testing.T) {
	t.Parallel()
	if descriptorLimit() == 0 {
		t.Skip("this machine tells no limit of open files")
	}
	var log bytes.Buffer
	s := New(Config{MaxConns: -1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if _, _, err := s.listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "limit of open files") || !strings.Contains(log.String(), "connections=") {
		t.Errorf("got %s", log.String())
	}
}
