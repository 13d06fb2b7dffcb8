package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
)

// onNode is an app whose connections lead to a node on the memory store.
func onNode(t *testing.T) func(stdin string, args ...string) ran {
	t.Helper()
	n, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return func(stdin string, args ...string) ran {
		var stdout, stderr bytes.Buffer
		a := &app{stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr}
		a.dial = func(ctx context.Context, _ string, o client.Options) (connection, error) {
			return client.DialWith(ctx, n.GRPCAddr(), o)
		}
		return ran{a.run(t.Context(), args), stdout.String(), stderr.String()}
	}
}

// Each line is a command on the entries that those before have left; N is the
// last version that was printed.
func TestMapCommands(t *testing.T) {
	clearEnv(t)
	try, last := onNode(t), "0"
	for _, tt := range []struct {
		args   string
		code   int
		stdout string // N stands for a version above the last one
		stderr string // contained in it; empty: nothing on stderr
	}{
		{"get k", 1, "", "absent"},
		{"get k --json", 1, `{"key":"k","value":"","version":"0","found":false}`, ""},
		{"delete k", 0, "0", "absent"},
		{"delete k --json", 0, `{"key":"k","value":"","version":"0","found":false}`, ""},
		{"delete k --if-version 7", 1, "", "CONDITION_FAILED"},
		{"put k v --if-version 7", 1, "", "CONDITION_FAILED"},
		{"put k one --if-absent", 0, "N", ""},
		{"put k two --if-absent", 1, "", "CONDITION_FAILED"},
		{"put k two --if-version 0", 1, "", "CONDITION_FAILED"},
		{"put k two --if-version LAST --json", 0, `{"key":"k","value":"two","version":"N","found":true}`, ""},
		{"get k", 0, "two", ""},
		{"get k --json", 0, `{"key":"k","value":"two","version":"LAST","found":true}`, ""},
		{"delete k --if-version LAST --json", 0, `{"key":"k","value":"","version":"LAST","found":true}`, ""},
		{"put k -5 --if-version 0 --if-absent --ttl 1h --json", 0, `{"key":"k","value":"-5","version":"N","found":false}`, ""},
		{"put k again --id once", 0, "N", ""},
		{"put k again --id once", 0, "LAST", ""},
		{"put k other --id once", 1, "", "ID_REUSED"},
		{"put {k}g v --guard some:lock:7", 0, "N", ""},
		{"put {k}g v --guard some:lock:6", 1, "", "FENCED_TOKEN"},
		{"put {k}g v --guard other:1 --json", 0, `{"key":"{k}g","value":"v","version":"N","found":true}`, ""},
		{"delete {k}g --guard some:lock:6 --json", 1, "{", ""},
		{"put {k}g v --guard 7", 2, "", "is not LOCKKEY:TOKEN"},
		{"put {k}g v --guard lock:", 2, "", "the token behind the last colon"},
		{"put {k}g v --guard lock:0", 2, "", "the token behind the last colon"},
		{"delete {k}g --guard some:lock:18446744073709551615", 0, "LAST", ""},
		{"put k --json", 2, "{", ""},
		{"put k v --if-version -1", 2, "", "is not a version"},
		{"put k v --if-version x", 2, "", "is not a version"},
		{"put k v --if-version 3 --if-absent", 2, "", "excludes"},
		{"put k v --ttl -1s", 2, "", "must not be negative"},
		{"put k v --ttl 100000h", 1, "", "INVALID_FIELD"},
		{"get k", 0, "again", ""},
	} {
		args := strings.Fields("map " + strings.ReplaceAll(tt.args, "LAST", last))
		got := try("", args...)
		want := strings.ReplaceAll(tt.stdout, "LAST", last)
		if before, after, some := strings.Cut(want, "N"); some {
			next := strings.Trim(strings.TrimPrefix(got.stdout, before), "\n")
			next = next[:strings.IndexFunc(next+"!", func(r rune) bool { return r < '0' || r > '9' })]
			if len(next) <= len(last) && next <= last {
				t.Errorf("%s: version %q after %q", tt.args, next, last)
			}
			want, last = before+next+after, next
		}
		if strings.TrimSuffix(got.stdout, "\n") != want && want != "{" || got.code != tt.code || (tt.stderr == "") != (got.stderr == "") || !strings.Contains(got.stderr, tt.stderr) {
			t.Errorf("%s: %v", tt.args, got)
		}
	}
}

func TestMapValuesFromStdin(t *testing.T) {
	clearEnv(t)
	try := onNode(t)
	for _, tt := range []struct {
		name, value string
		code        int
		field       string // of the JSON
	}{
		{"text", "ä\n", 0, `"value":"ä\n"`},
		{"empty", "", 0, `"value":""`},
		{"no UTF-8", "\xff\x00", 0, `"value":null,"value_base64":"/wA="`},
		{"just fits", strings.Repeat("v", 64<<10), 0, `"value":"vvv`},
		{"too large", strings.Repeat("v", 64<<10+1), 1, ""},
		{"larger than any message", strings.Repeat("v", 3<<20), 1, ""},
	} {
		got := try(tt.value, "map", "put", tt.name, "-", "--json")
		if got.code != tt.code || !strings.Contains(got.stdout, tt.field) {
			t.Errorf("%s: put: exit code %d, %.200s", tt.name, got.code, got.stdout)
		}
		if tt.code != 0 {
			var failed struct{ Error report }
			if err := json.Unmarshal([]byte(got.stdout), &failed); err != nil || failed.Error.Reason != "LIMIT" || failed.Error.Outcome != "not_done" {
				t.Errorf("%s: %v, %.200s", tt.name, err, got.stdout)
			}
			if got := try("", "map", "get", tt.name); got.code != 1 || got.stdout != "" {
				t.Errorf("%s: is there: %.200v", tt.name, got)
			}
			continue
		}
		if got := try("", "map", "get", tt.name, "--json"); got.code != 0 || !strings.Contains(got.stdout, tt.field) {
			t.Errorf("%s: get: %.200v", tt.name, got)
		}
		want := tt.value
		if tt.name != "no UTF-8" {
			want += "\n"
		}
		if got := try("", "map", "get", tt.name); got.stdout != want {
			t.Errorf("%s: get: %.200v", tt.name, got)
		}
	}
}

func TestMapValueThatCannotBeRead(t *testing.T) {
	clearEnv(t)
	var stderr bytes.Buffer
	a := &app{stdin: io.MultiReader(strings.NewReader("half"), broken{}), stdout: io.Discard, stderr: &stderr}
	if code := a.run(t.Context(), []string{"map", "put", "k", "-"}); code != 1 || !strings.Contains(stderr.String(), "reading the value from stdin") {
		t.Errorf("%d, %s", code, stderr.String())
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, fmt.Errorf("broken: %w", io.ErrUnexpectedEOF) }
