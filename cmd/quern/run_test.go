package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
)

// noMore is how the fake ends a watch.
const noMore = `{"error":{"code":"resource_exhausted","reason":"OVERLOADED","message":"no more","retryable":true,"outcome":"not_done"}}` + "\n"

// Each line is a command; k is 10 before.
func TestCommands(t *testing.T) {
	clearEnv(t)
	for _, tt := range []struct {
		args   string
		code   int
		stdout string
		stderr string // contained in it; empty: nothing on stderr
	}{
		{"counter add k", 0, "11\n", ""},
		{"counter add k 5", 0, "15\n", ""},
		{"counter add k -5", 0, "5\n", ""},
		{"counter add k +5", 0, "15\n", ""},
		{"counter add k 010", 0, "20\n", ""},
		{"counter add k 0x10", 2, "", `"0x10" is not a decimal number`},
		{"counter add k -5 --min -5", 0, "5\n", ""},
		{"counter add --min -5 k -5", 0, "5\n", ""},
		{"counter --min -5 add k -5", 0, "5\n", ""},
		{"--min -5 counter add k -5", 0, "5\n", ""},
		{"counter add k --min=-5 -5", 0, "5\n", ""},
		{"counter add k -5 --min 6", 1, "", "LIMIT: 5 is out of bounds"},
		{"counter add k -- -5", 0, "5\n", ""},
		{"counter add -- k -5", 0, "5\n", ""},
		{"counter add k 5 --max 12 --saturate", 0, "10\n", "added 0 instead of 5"},
		{"counter add k 5 --max 12 --saturate --json", 0, `{"key":"k","value":10,"applied":0}` + "\n", ""},
		{"counter add k --min 5 --max 4", 2, "", "--min 5: is above --max 4"},
		{"counter add k --min", 2, "", "--min"},
		{"counter add k --min --json", 2, "{", ""},
		{"counter add -5 -5", 0, "-5\n", ""},
		{"counter add k 9223372036854775808", 2, "", "9223372036854775808"},
		{"counter add k x", 2, "", `"x" is not a decimal number`},
		{"counter add k 1 2", 2, "", "unexpected argument 2"},
		{"counter add k -x", 2, "", "unknown flag -x"},
		{"counter add", 2, "", `expected "<key>`},
		{"counter add k --bogus", 2, "", "unknown flag --bogus"},
		{"counter add k --json --id i", 0, `{"key":"k","value":11,"applied":1}` + "\n", ""},
		{"--json counter add k -3", 0, `{"key":"k","value":7,"applied":-3}` + "\n", ""},
		{"counter get k", 0, "10\n", ""},
		{"counter get absent", 0, "0\n", ""},
		{"counter get -5", 0, "0\n", ""},
		{"counter get -", 0, "0\n", ""},
		{"counter get -- --json", 0, "0\n", ""},
		{"counter get k --json", 0, `{"key":"k","value":10,"applied":0,"ttl_ms":1}` + "\n", ""},
		{"counter get <&> --json", 0, `{"key":"<&>","value":0,"applied":0,"ttl_ms":1}` + "\n", ""},
		{"counter set k -1", 0, "-1\n", ""},
		{"counter set k -1 --json", 0, `{"key":"k","value":-1,"applied":-11}` + "\n", ""},
		{"counter set k", 2, "", `expected "<n>"`},
		{"counter cas k 10 -2", 0, "-2\n", ""},
		{"counter cas k -1 -2", 1, "10\n", "not swapped: the value is 10, not -1"},
		{"counter cas k -1 -2 --json", 1, `{"key":"k","value":10,"applied":0,"swapped":false}` + "\n", ""},
		{"counter cas k 10 -2 --json", 0, `{"key":"k","value":-2,"applied":-12,"swapped":true}` + "\n", ""},
		{"counter reset k", 0, "0\n", ""},
		{"counter reset k --json", 0, `{"key":"k","value":0,"applied":-10}` + "\n", ""},
		{"counter expire k 1h", 0, "10\n", ""},
		{"counter expire k 0", 0, "10\n", ""},
		{"counter expire absent 1h", 0, "0\n", "absent"},
		{"counter expire k 1h --json", 0, `{"key":"k","value":10,"applied":0,"found":true}` + "\n", ""},
		{"counter expire k -1s", 2, "", "-1s: must not be negative"},
		{"counter expire k soon", 2, "", `"soon"`},
		{"counter get k --timeout 0s", 2, "", "--timeout 0s"},
		{"counter get k --timeout -1s", 2, "", "--timeout -1s"},
		{"counter get k --timeout x", 2, "", `--timeout: expected duration but got "x"`},
		{"counter get k --addr nowhere", 2, "", `--addr "nowhere"`},
		{"counter get k --addr a:1,b:", 2, "", `"b:" is not HOST:PORT`},
		{"counter watch k", 1, "-3\n0\n", "OVERLOADED: no more"},
		{"counter watch k --json", 1, `{"key":"k","value":-3,"applied":0,"found":true,"ttl_ms":1000,"epoch":"1152921504606846976","sequence":1}` + "\n" +
			`{"key":"k","value":0,"applied":0,"found":false,"ttl_ms":0,"epoch":"1152921504606846976","sequence":2}` + "\n" + noMore, ""},
		{"map watch k", 1, `"a\nb"` + "\n(absent)\n", "OVERLOADED: no more"},
		{"map watch k --json", 1, `{"key":"k","value":"a\nb","version":"1152921504606846976","found":true,"ttl_ms":0,"epoch":"1","sequence":1}` + "\n" +
			`{"key":"k","value":"","version":"0","found":false,"ttl_ms":0,"epoch":"1","sequence":2}` + "\n" + noMore, ""},
		{"lock watch k", 1, "held by o, 2 in all, token 1152921504606846976, 3 waiting\nfree, 0 waiting\n", "OVERLOADED: no more"},
		{"lock watch k --json", 1, `{"key":"k","held":true,"owner":"o","token":"1152921504606846976","ttl_ms":1000,"holds":2,"waiters":3,"epoch":"1","sequence":1}` + "\n" +
			`{"key":"k","held":false,"owner":"","token":"0","ttl_ms":0,"holds":0,"waiters":0,"epoch":"1","sequence":2}` + "\n" + noMore, ""},
		{"counter watch k --timeout 0s", 2, "", "--timeout 0s"},
		{"counter", 2, "", "expected one of"},
		{"cluster status", 0, "store   memory (not durable: gone when the process ends)\nshards  256 of 256 owned\n\n" +
			"NODE  ADDR            STATE  SHARDS\nn1    127.0.0.1:7411  ready  256\n", ""},
		{"cluster status --json", 0, `{"cluster":"","store":"memory","durable":false,"nodes":[{"node":"n1","addr":"127.0.0.1:7411",` +
			`"state":"ready","shards":256}],"shards_total":256,"shards_owned":256}` + "\n", ""},
		{"cluster where k", 0, "shard 7 on n1 at 127.0.0.1:7411, epoch 1152921504606846976\n", ""},
		{"cluster where k --json", 0, `{"key":"k","shard":7,"node":"n1","addr":"127.0.0.1:7411","epoch":"1152921504606846976"}` + "\n", ""},
		{"bench run --workload x", 2, "", `--workload "x": is none of counter-add`},
		{"bench run --duration 0s", 2, "", "--duration 0s"},
		{"bench run --concurrency -1", 2, "", "--concurrency -1"},
		{"bench run --concurrency 99999999", 2, "", "concurrency 99999999"},
		{"bench run --keys 0", 2, "", "--keys 0"},
		{"bench run --rate 0", 2, "", "--rate 0"},
		{"bench run --rate NaN", 2, "", "--rate NaN"},
		{"bench run --rate -5", 2, "", "--rate -5"},
		{"bench run --dist x", 2, "", `--dist must be one of "uniform","zipf" but got "x"`},
		{"bench run --workload counter-hot --keys 2", 2, "", "keys 2"},
		{"bench run --store memory", 2, "", "--store memory: only for --target embedded"},
		{"bench run --target embedded --store x", 2, "", `--store "x"`},
		{"bench run --target x", 2, "", `--target "x"`},
		{"bench run --pipeline 0", 2, "", "--pipeline 0: must be 1 to 10000"},
		{"bench run --pipeline -1", 2, "", "--pipeline -1: must be 1 to 10000"},
		{"bench run --pipeline 10001", 2, "", "--pipeline 10001: must be 1 to 10000"},
		{"bench run --pipeline 4", 2, "", "pipeline 4, but the target takes one operation at a time"},
		{"bench run --pipeline 10000 --concurrency 101", 2, "", "101 workers with 10000 operations each"},
		{"bench run --workload counter-columns --keys 999", 2, "", "keys 999, but counter-columns takes 1000 different ones"},
		{"bench run --connections 0", 2, "", "--connections 0: must be 1 to 1024"},
		{"bench run --connections 1025", 2, "", "--connections 1025: must be 1 to 1024"},
		{"bench run --connections 3 --concurrency 2", 2, "", "--concurrency 2: too few workers for 1 processes with 3 connections each"},
		{"bench run --connections 2 --target embedded", 2, "", "--connections 2: an embedded target has none"},
		{"bench run --processes 0", 2, "", "--processes 0: must be 1 to 64"},
		{"bench run --processes 65", 2, "", "--processes 65: must be 1 to 64"},
		{"bench run --processes 2 --target embedded", 2, "", "--processes 2: an embedded target has one"},
		{"bench helper", 2, "", "missing flags: --target"},
		{"serve --addr x:1", 2, "", "unknown flag --addr"},
		{"frobnicate", 2, "", "unexpected argument frobnicate"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got := newFake().try(t, strings.Fields(tt.args)...)
			if got.code != tt.code || !strings.Contains(got.stderr, tt.stderr) || (tt.stderr == "") != (got.stderr == "") {
				t.Errorf("%v", got)
			}
			if got.stdout != tt.stdout && (tt.stdout != "{" || !strings.HasPrefix(got.stdout, "{")) {
				t.Errorf("stdout %q, want %q", got.stdout, tt.stdout)
			}
		})
	}
}

func TestEveryWriteTakesAnID(t *testing.T) {
	clearEnv(t)
	for _, args := range []string{"add k", "set k 1", "cas k 10 2", "reset k", "expire k 1h"} {
		f := newFake()
		got := f.try(t, strings.Fields("counter "+args+" --id once")...)
		if got.code != 0 || !slices.Equal(f.ids, []string{"once"}) {
			t.Errorf("%s: ids %v, %v", args, f.ids, got)
		}
	}
}

func TestFailures(t *testing.T) {
	clearEnv(t)
	for _, tt := range []struct {
		err    error
		code   int
		report string
		says   string
	}{
		{failure.New(failure.Overloaded, "full"), 1, `{"code":"resource_exhausted","reason":"OVERLOADED","message":"full","retryable":true,"outcome":"not_done"}`, "quern: OVERLOADED: full\n"},
		{failure.New(failure.OutcomeUnknown, "gone"), 3, `{"code":"unknown","reason":"OUTCOME_UNKNOWN","message":"gone","retryable":false,"outcome":"unknown"}`, "quern: OUTCOME_UNKNOWN: gone\nquern: outcome unknown: it perhaps happened\n"},
		{context.DeadlineExceeded, 3, `{"code":"deadline_exceeded","reason":"DEADLINE_EXCEEDED","message":"the timeout passed","retryable":false,"outcome":"unknown"}`, "quern: the timeout passed\nquern: outcome unknown: it perhaps happened\n"},
		{fmt.Errorf("%w: x:1", client.ErrUnreachable), 4, `{"code":"unavailable","reason":"UNREACHABLE","message":"client: no node can be reached: x:1","retryable":true,"outcome":"not_done"}`, "quern: client: no node can be reached: x:1\n"},
		{failure.Wrap(client.ErrUnreachable, failure.NotOwner, "no node"), 4, `{"code":"unavailable","reason":"UNREACHABLE","message":"quern: NOT_OWNER: no node","retryable":true,"outcome":"not_done"}`, "quern: NOT_OWNER: no node\n"},
		{errors.New("odd"), 1, `{"code":"failed_precondition","reason":"FAILED","message":"odd","retryable":false,"outcome":"not_done"}`, "quern: odd\n"},
	} {
		for _, command := range []string{"counter add k", "counter get k", "counter set k 1", "counter cas k 1 2", "counter reset k", "counter expire k 1s", "cluster status", "cluster where k"} {
			f := newFake()
			f.err = tt.err
			if got := f.try(t, strings.Fields(command)...); got.code != tt.code || got.stdout != "" || got.stderr != tt.says {
				t.Errorf("%s with %v: %v", command, tt.err, got)
			}
			got := f.try(t, strings.Fields(command+" --json")...)
			if want := `{"error":` + tt.report + "}\n"; got.code != tt.code || got.stdout != want || got.stderr != "" {
				t.Errorf("%s --json with %v: %v", command, tt.err, got)
			}
		}
	}
}

func TestAddressPrecedence(t *testing.T) {
	clearEnv(t)
	f := newFake()
	if f.try(t, "counter", "get", "k"); f.addr != "127.0.0.1:7411" {
		t.Errorf("default %q", f.addr)
	}
	t.Setenv("QUERN_ADDR", "a:1,b:2")
	if f.try(t, "counter", "get", "k"); f.addr != "a:1,b:2" {
		t.Errorf("environment %q", f.addr)
	}
	if f.try(t, "counter", "get", "k", "--addr", "c:3"); f.addr != "c:3" {
		t.Errorf("flag %q", f.addr)
	}
}

func TestHelpAndVersion(t *testing.T) {
	clearEnv(t)
	for _, args := range []string{"", "--help", "-h", "serve --help", "counter --help", "map put --help", "counter add --help", "counter add -h k", "bench run --help"} {
		if got := newFake().try(t, strings.Fields(args)...); got.code != 0 || !strings.HasPrefix(got.stdout, "Usage: quern") || got.stderr != "" {
			t.Errorf("%s: %v", args, got)
		}
	}
	if got := newFake().try(t, "version"); got.code != 0 || !strings.HasPrefix(got.stdout, "quern ") {
		t.Errorf("%v", got)
	}
	got := newFake().try(t, "version", "--json")
	var b build
	if err := json.Unmarshal([]byte(got.stdout), &b); err != nil || b.Go == "" || b.Version == "" {
		t.Errorf("%v: %v", err, got)
	}
}

// arrange may not depend on which command a flag belongs to.
func TestAFlagTakesAValueInAllCommandsOrInNone(t *testing.T) {
	parser, err := kong.New(new(commands))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	var walk func(*kong.Node)
	walk = func(n *kong.Node) {
		for _, f := range n.Flags {
			if kind, ok := kinds[f.Name]; ok && kind != f.IsBool() {
				t.Errorf("--%s takes a value in some commands only", f.Name)
			}
			if kinds[f.Name] = f.IsBool(); f.Short >= '0' && f.Short <= '9' {
				t.Errorf("-%c is a number", f.Short)
			}
		}
		for _, c := range n.Children {
			walk(c)
		}
	}
	walk(parser.Model.Node)
}

func TestArrange(t *testing.T) {
	parser, err := kong.New(new(commands))
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"":                             "",
		"counter":                      "counter",
		"counter add k":                "counter add -- k",
		"counter add counter":          "counter add -- counter",
		"counter add k -5 --min -5":    "counter add --min=-5 -- k -5",
		"counter add k -.5 --min -.5":  "counter add --min=-.5 -- k -.5",
		"counter add --json k -- --id": "counter add --json -- k --id",
		"counter add --id -- k":        "counter add --id -- k",
		"counter add --id a --id b k":  "counter add --id=a --id=b -- k",
		"counter --bogus add k":        "counter add --bogus -- k",
	} {
		if got := strings.Join(arrange(parser.Model.Node, strings.Fields(in)), " "); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestBenchRun(t *testing.T) {
	clearEnv(t)
	dir := t.TempDir()
	got := newFake().try(t, strings.Fields("bench run --duration 50ms --concurrency 2 --keys 5 --rate 1000 --out "+dir)...)
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	var acked, applied int
	last := lines[len(lines)-1]
	if n, err := fmt.Sscanf(last, "acked %d applied %d lost 0 doubled 0", &acked, &applied); n != 2 || err != nil || acked == 0 || acked != applied || got.code != 0 {
		t.Errorf("%v", got)
	}
	for _, name := range []string{"result.json", "latency.hgrm", "series.csv", "report.html"} {
		if _, err := os.Stat(dir + "/" + name); err != nil {
			t.Error(err)
		}
	}
	got = newFake().try(t, strings.Fields("bench run --duration 50ms --json --target embedded --workload spawn --keys 3")...)
	var result map[string]any
	if err := json.Unmarshal([]byte(got.stdout), &result); err != nil || got.code != 0 || got.stderr != "" {
		t.Fatalf("%v: %v", err, got)
	}
	if want := []any{"embedded", "memory", 3.0, 3.0}; !reflect.DeepEqual([]any{result["target"], result["store"], result["ops"], result["acked"]}, want) {
		t.Errorf("%v", got)
	}
}

func TestBenchRunFailsWhereNothingWasDone(t *testing.T) {
	clearEnv(t)
	f := newFake()
	f.values["p0"] = 1
	got := f.try(t, strings.Fields("bench run --duration 50ms --workload spawn --prefix p --json")...)
	if got.code != 1 || !strings.Contains(got.stdout, `{"error":`) || !strings.Contains(got.stdout, "p0 is 1") {
		t.Errorf("%v", got)
	}
}
