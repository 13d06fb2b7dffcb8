package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func serveFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "quern.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestServeDefaults(t *testing.T) {
	clearEnv(t)
	t.Chdir(t.TempDir())
	if err := os.Mkdir(defaultData, 0o700); err != nil {
		t.Fatal(err)
	}
	f := newFake()
	if got := f.try(t, "serve"); got.code != 0 || got.stdout != "" || strings.Contains(got.stderr, "WARN") {
		t.Errorf("%v", got)
	}
	c := f.cfg
	if c.Listen != "127.0.0.1:7411" || c.HTTP != "127.0.0.1:7412" || c.Store != "embedded" || c.DataDir != "./quern-data" || c.Shards != 0 {
		t.Errorf("%+v", c)
	}
}

func TestServePrecedence(t *testing.T) {
	clearEnv(t)
	file := serveFile(t, "# a comment\nstore: memory\nnode: file\nlisten: 127.0.0.1:3\nhttp: '127.0.0.1:3'\nshards: 64\nresident-limit: 5\ndrain-timeout: 3s\nlog-level: warn\n")
	t.Setenv("QUERN_LISTEN", "127.0.0.1:2")
	t.Setenv("QUERN_HTTP", "127.0.0.1:2")
	f := newFake()
	var drain time.Duration
	f.drain = func(ctx context.Context) error {
		end, _ := ctx.Deadline()
		drain = time.Until(end)
		return nil
	}
	got := f.try(t, "serve", "--http", "127.0.0.1:1", "--config", file)
	c := f.cfg
	if got.code != 0 || c.HTTP != "127.0.0.1:1" || c.Listen != "127.0.0.1:2" || c.Node != "file" || c.Shards != 64 || c.ResidentLimit != 5 || c.Store != "memory" {
		t.Errorf("%+v %v", c, got)
	}
	if drain > 3*time.Second || drain < time.Second || got.stderr != "" {
		t.Errorf("drain %v, %v", drain, got)
	}
	t.Setenv("QUERN_CONFIG", file)
	t.Setenv("QUERN_NODE", "env")
	if got := f.try(t, "serve"); got.code != 0 || f.cfg.Node != "env" || f.cfg.Shards != 64 {
		t.Errorf("%+v %v", f.cfg, got)
	}
	if got := f.try(t, "counter", "get", "k"); got.code != 0 {
		t.Errorf("the file concerns serve only: %v", got)
	}
}

func TestServeRefusesWhatCannotWork(t *testing.T) {
	clearEnv(t)
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "photo.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args, says string
		code       int
	}{
		{"--listen nowhere", `--listen "nowhere"`, 2},
		{"--listen 127.0.0.1:", `--listen "127.0.0.1:"`, 2},
		{"--http x", `--http "x"`, 2},
		{"--advertise x", `--advertise "x"`, 2},
		{"--shards 0", "--shards 0", 2},
		{"--shards 3", "--shards 3: must be a power of two", 2},
		{"--shards 131072", "--shards 131072", 2},
		{"--shards -1", "--shards", 2},
		{"--shards x", `--shards: expected a valid 32 bit uint but got "x"`, 2},
		{"--resident-limit -1", "--resident-limit -1", 2},
		{"--drain-timeout 0s", "--drain-timeout 0s", 2},
		{"--drain-timeout x", "--drain-timeout", 2},
		{"--log-format xml", "--log-format", 2},
		{"--log-level loud", "--log-level", 2},
		{"--store sqlite", `--store "sqlite"`, 2},
		{"--store postgres://u:secret@h/d --data " + foreign, "holds photo.jpg", 1},
		{"--consul 127.0.0.1:8500", "--consul 127.0.0.1:8500: name the store", 2},
		{"--consul 127.0.0.1:8500 --store embedded", "--store embedded: cannot be used with --consul", 2},
		{"--consul 127.0.0.1:8500 --store memory", "--consul 127.0.0.1:8500: name the cluster to join", 2},
		{"--cluster c", "--cluster c: needs --consul", 2},
		{"extra", "unexpected argument extra", 2},
		{"--config /nowhere.yaml", "/nowhere.yaml: there is no such file", 2},
		{"--store memory --data " + foreign, "holds photo.jpg", 1},
	} {
		got := newFake().try(t, append([]string{"serve"}, strings.Fields(tt.args)...)...)
		if got.code != tt.code || !strings.Contains(got.stderr, tt.says) || got.stdout != "" || strings.Contains(got.stderr, "secret") {
			t.Errorf("%s: %v", tt.args, got)
		}
	}
}

func TestServeRefusesABadFile(t *testing.T) {
	clearEnv(t)
	for text, says := range map[string]string{
		"store: memory\nlisen: x":              `line 2: unknown key "lisen"`,
		"config: x":                            `line 1: unknown key "config"`,
		"help: true":                           `line 1: unknown key "help"`,
		"node: a\nnode: b":                     "node",
		"node:":                                `line 1: "node" needs one value`,
		"node: [a, b]":                         `line 1: "node" needs one value`,
		"node: {a: b}":                         `line 1: "node" needs one value`,
		"- node":                               "want lines of the form",
		"just words":                           "want lines of the form",
		"a: b: c":                              "not YAML",
		"store: memory\nshards: 3":             "--shards 3",
		"store: memory\nshards: many":          `--shards`,
		"store: memory\n\nresident-limit: 1.5": `--resident-limit`,
	} {
		got := newFake().try(t, "serve", "--config", serveFile(t, text))
		if got.code != 2 || !strings.Contains(got.stderr, says) || got.stdout != "" {
			t.Errorf("%q: %v", text, got)
		}
	}
	if got := newFake().try(t, "serve", "--store", "memory", "--config", serveFile(t, "")); got.code != 0 {
		t.Errorf("an empty file: %v", got)
	}
}

func TestServeWarns(t *testing.T) {
	clearEnv(t)
	t.Setenv("QUERN_PORT_7411_TCP", "tcp://10.0.0.1:7411")
	t.Setenv("QUERN_ADDR", "127.0.0.1:7411")
	got := newFake().try(t, "serve", "--store", "memory", "--listen", "0.0.0.0:7411", "--http", "[::1]:7412", "--log-format", "json")
	if got.code != 0 || strings.Count(got.stderr, `"WARN"`) != 2 ||
		!strings.Contains(got.stderr, "QUERN_PORT_7411_TCP") || !strings.Contains(got.stderr, "0.0.0.0:7411") {
		t.Errorf("%v", got)
	}
	for line := range strings.Lines(got.stderr) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
	t.Setenv("QUERN_SHARDS", "many")
	if got := newFake().try(t, "serve", "--store", "memory"); got.code != 2 || !strings.Contains(got.stderr, `QUERN_SHARDS="many"`) {
		t.Errorf("%v", got)
	}
}

func TestLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "localhost:1": true,
		":1": false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "example.org:1": false,
	} {
		if loopback(addr) != want {
			t.Errorf("%s: %v", addr, !want)
		}
	}
}

func TestServeKeepsNodeJSONWhileItRuns(t *testing.T) {
	clearEnv(t)
	dir := filepath.Join(t.TempDir(), "new", "data")
	path := filepath.Join(dir, nodeFileName)
	f := newFake()
	f.drain = func(context.Context) error {
		text, err := os.ReadFile(path)
		var got nodeFile
		if err != nil || json.Unmarshal(text, &got) != nil || (got != nodeFile{"n1", "127.0.0.1:1", "127.0.0.1:2", os.Getpid()}) {
			t.Errorf("node.json: %s %v", text, err)
		}
		return nil
	}
	for range 2 {
		if got := f.try(t, "serve", "--store", "memory", "--data", dir); got.code != 0 {
			t.Errorf("%v", got)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("node.json after a clean stop: %v", err)
		}
		if err := os.WriteFile(path, []byte("left over"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNodeJSONOfAnotherProcessStays(t *testing.T) {
	dir := t.TempDir()
	if err := (nodeFile{PID: 1}).write(dir); err != nil {
		t.Fatal(err)
	}
	if err := (nodeFile{PID: 2}).remove(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, nodeFileName)); err != nil {
		t.Error(err)
	}
}

func TestServeThatCannotDrainExitsWithOne(t *testing.T) {
	clearEnv(t)
	f := newFake()
	f.drain = func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	got := f.try(t, "serve", "--store", "memory", "--drain-timeout", "10ms")
	if got.code != 1 || !strings.Contains(got.stderr, "--drain-timeout 10ms") {
		t.Errorf("%v", got)
	}
	f.drain = func(context.Context) error { return errors.New("disk gone") }
	if got := f.try(t, "serve", "--store", "memory"); got.code != 1 || !strings.Contains(got.stderr, "disk gone") {
		t.Errorf("%v", got)
	}
}
