package clusterfault

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/quern-io/quern/internal/clusterproc"
)

// load is the loaders of all sides. It belongs to one goroutine.
type load struct {
	t       *testing.T // the one that runs
	folder  string
	loaders []*loaderProc // by side less 1
	windows int
}

// loaderProc is a loader's process.
type loaderProc struct {
	process *clusterproc.Process
	stdin   io.WriteCloser
	answers chan string // closed when it ends
}

// startLoad starts a loader on each side, which together send rate operations a
// second while there is a window.
func startLoad(t *testing.T, network clusterproc.Network, sides, rate int, folder string, random *rand.Rand) *load {
	t.Helper()
	l := &load{t: t, folder: folder}
	var all []string
	for side := range sides {
		all = append(all, network.Advertise(side+1))
	}
	for side := 1; side <= sides; side++ {
		config, err := json.Marshal(loaderConfig{
			Side: uint8(side), Own: network.Listen(side), All: strings.Join(slices.Concat(all[side-1:], all[:side-1]), ","),
			Rate: rate / sides, Seed: random.Uint64(),
		})
		if err != nil {
			t.Fatal(err)
		}
		l.loaders = append(l.loaders, l.start(network, side, string(config)))
	}
	for side := range l.loaders {
		l.answer(side)
	}
	return l
}

func (l *load) start(network clusterproc.Network, side int, config string) *loaderProc {
	l.t.Helper()
	p := &loaderProc{answers: make(chan string)}
	cmd := exec.CommandContext(l.t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+config)
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		l.t.Fatal(err)
	}
	out, answers, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd.Stdout = answers
	if p.process, err = clusterproc.Start(network, side, cmd, filepath.Join(l.folder, fmt.Sprintf("loader%d.log", side))); err != nil {
		l.t.Fatal(err)
	}
	_ = answers.Close() // the process has its own
	l.t.Cleanup(p.process.Kill)
	go func() {
		defer close(p.answers)
		defer out.Close()
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			p.answers <- lines.Text()
		}
	}()
	return p
}

// answer waits for a loader's next line.
func (l *load) answer(side int) string {
	l.t.Helper()
	select {
	case line, ok := <-l.loaders[side].answers:
		if ok {
			return line
		}
	case <-soon(l.t).Done():
	}
	l.t.Fatalf("the loader of side %d does not answer:\n%s", side+1, l.loaders[side].process.Log())
	return ""
}

// tell gives all loaders a command and returns their answers.
func (l *load) tell(command func(side int) string) []string {
	l.t.Helper()
	for side, p := range l.loaders {
		if _, err := io.WriteString(p.stdin, command(side)+"\n"); err != nil {
			l.t.Fatal(err)
		}
	}
	var all []string
	for side := range l.loaders {
		all = append(all, l.answer(side))
	}
	return all
}

func (l *load) file(side int) string {
	return filepath.Join(l.folder, fmt.Sprintf("ops%d-%d", l.windows, side+1))
}

// begin begins a window of load, end ends it and returns its operations.
func (l *load) begin() {
	l.t.Helper()
	l.windows++
	l.tell(func(side int) string { return "begin " + l.file(side) })
}

func (l *load) end() []clusterproc.Op {
	l.t.Helper()
	l.tell(func(int) string { return "end" })
	var all []clusterproc.Op
	for side := range l.loaders {
		f, err := os.Open(l.file(side))
		if err != nil {
			l.t.Fatal(err)
		}
		ops, err := clusterproc.ReadOps(f)
		if err != nil {
			l.t.Fatal(err)
		}
		f.Close()
		all = append(all, ops...)
	}
	return all
}

// seen returns when the last operation was sent that a node has answered.
func (l *load) seen(node int) int64 {
	l.t.Helper()
	last := int64(0)
	for _, line := range l.tell(func(int) string { return "seen" }) {
		fields := strings.Fields(line)
		if node < len(fields) {
			at, err := strconv.ParseInt(fields[node], 10, 64)
			if err != nil {
				l.t.Fatal(err)
			}
			last = max(last, at)
		}
	}
	return last
}
