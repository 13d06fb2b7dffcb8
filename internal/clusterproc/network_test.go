package clusterproc_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/internal/clusterproc"
	"github.com/quern-io/quern/internal/testservice"
)

// roleEnv makes this program an echo at the address that it holds, or, if it is
// empty but there, one who asks echoes.
const roleEnv = "QUERN_CLUSTERPROC_ROLE"

func TestMain(m *testing.M) {
	if addr, ok := os.LookupEnv(roleEnv); ok {
		os.Exit(role(addr))
	}
	if clusterproc.Entered() {
		if err := clusterproc.Begin(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if code, err := clusterproc.Enter(); err == nil {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func role(addr string) int {
	if addr == "" {
		return ask()
	}
	var config net.ListenConfig
	lis, err := config.Listen(context.Background(), "tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stdout, "ready")
	echo(lis)
	return 0
}

func echo(lis net.Listener) {
	for {
		conn, err := lis.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn) // until it is closed
		}()
	}
}

// ask reads addresses from stdin and prints for each whether an echo answered
// there within a moment. It keeps its connections.
func ask() int {
	conns := make(map[string]net.Conn)
	answers := make(map[string]*bufio.Reader)
	asked := bufio.NewScanner(os.Stdin)
	for n := 0; asked.Scan(); n++ {
		moment, addr, _ := strings.Cut(asked.Text(), " ")
		patience, err := time.ParseDuration(moment)
		if err != nil {
			return 1
		}
		if conns[addr] == nil {
			dialer := net.Dialer{Timeout: patience}
			conn, err := dialer.DialContext(context.Background(), "tcp", addr)
			if err != nil {
				fmt.Fprintln(os.Stdout, "no")
				continue
			}
			conns[addr], answers[addr] = conn, bufio.NewReader(conn)
		}
		want := fmt.Sprintln(n)
		fmt.Fprint(conns[addr], want)
		_ = conns[addr].SetReadDeadline(time.Now().Add(patience))
		got := ""
		for err == nil && got != want {
			got, err = answers[addr].ReadString('\n')
		}
		if err != nil {
			fmt.Fprintln(os.Stdout, "no")
			continue
		}
		fmt.Fprintln(os.Stdout, "yes")
	}
	return 0
}

// talker is a process that asks.
type talker struct {
	stdin   io.Writer
	answers *bufio.Scanner
}

func start(t *testing.T, n clusterproc.Network, side int, addr string) talker {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+addr)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, answers, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	cmd.Stdout = answers
	p, err := clusterproc.Start(n, side, cmd, filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Log(p.Log())
		}
	})
	answers.Close()
	return talker{stdin, bufio.NewScanner(out)}
}

// asks reports whether an echo answers.
func (a talker) asks(t *testing.T, addr string, patience time.Duration) bool {
	t.Helper()
	fmt.Fprintln(a.stdin, patience, addr)
	if !a.answers.Scan() {
		t.Fatal("who asks has ended")
	}
	return a.answers.Text() == "yes"
}

// TestNetwork cuts each link of a side by itself, without a sign, and heals it.
// What was under way comes through late.
func TestNetwork(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func(int) (clusterproc.Network, error){
		"namespaces": clusterproc.Namespaces, "loopback": clusterproc.Loopback,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "namespaces" && !clusterproc.Entered() {
				testservice.Impossible(t, "network namespaces", "not permitted")
			}
			n, err := build(2)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(n.Close)
			cuts(t, n)
		})
	}
}

func cuts(t *testing.T, n clusterproc.Network) {
	t.Helper()
	var config net.ListenConfig
	service, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { service.Close() })
	go echo(service)
	reach := clusterproc.DialTo("tcp", service.Addr().String())
	var asking []talker
	for side := 1; side <= 2; side++ {
		if !start(t, n, side, n.Listen(side)).answers.Scan() {
			t.Fatal("there is no echo")
		}
		asking = append(asking, start(t, n, side, ""))
	}
	// What side 1 can reach, and who can reach it, by the links that lead there.
	type way struct {
		from talker
		to   string
		over clusterproc.Link
	}
	ways := map[string]way{
		"own":       {asking[0], n.Listen(1), 0},
		"to peer":   {asking[0], n.Advertise(2), clusterproc.Peers},
		"from peer": {asking[1], n.Advertise(1), clusterproc.Peers},
		"the other": {asking[1], n.Listen(2), 0},
	}
	for name, l := range map[string]clusterproc.Link{"authority": clusterproc.Authority, "store": clusterproc.Store} {
		for i, from := range asking {
			addr, err := n.Offer(i+1, l, reach)
			if err != nil {
				t.Fatal(err)
			}
			if i == 1 {
				name, l = name+" of the other", 0
			}
			ways[name] = way{from, addr, l}
		}
	}
	const moment, while = 100 * time.Millisecond, 20 * time.Second
	for name, w := range ways {
		if !w.from.asks(t, w.to, while) {
			t.Fatalf("%s: no answer", name)
		}
	}
	for _, cut := range []clusterproc.Link{clusterproc.Peers, clusterproc.Authority, clusterproc.Store, clusterproc.Everything} {
		if err := n.Cut(1, cut); err != nil {
			t.Fatal(err)
		}
		for name, w := range ways {
			patience := while
			if w.over&cut != 0 {
				patience = moment
			}
			if got := w.from.asks(t, w.to, patience); got != (w.over&cut == 0) {
				t.Errorf("cut from %v, %s: an answer: %v", cut, name, got)
			}
		}
		if err := n.Heal(1, cut); err != nil {
			t.Fatal(err)
		}
		for name, w := range ways {
			if !w.from.asks(t, w.to, while) {
				t.Errorf("healed from %v, %s: no answer", cut, name)
			}
		}
	}
}
