package main

import (
	"fmt"
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/quern-io/quern/bench"
)

// progress is a line on a terminal; elsewhere nothing.
type progress struct{ bar *progressbar.ProgressBar }

// steps is the resolution of the bar.
const steps = 1000

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return &progress{}
	}
	return &progress{progressbar.NewOptions(steps,
		progressbar.OptionSetWriter(f),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionSetElapsedTime(false),
		progressbar.OptionFullWidth(),
	)}
}

func (p *progress) show(s bench.Progress) {
	if p.bar == nil {
		return
	}
	text := s.Phase
	if s.OpsPerSec > 0 {
		text = fmt.Sprintf("%s %.0f/s", s.Phase, s.OpsPerSec)
	}
	p.bar.Describe(text)
	_ = p.bar.Set(min(int(s.Done*steps), steps-1)) // a line that cannot be drawn is no loss
}

func (p *progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear() // as above
	}
}
