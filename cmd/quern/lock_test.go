package main

import (
	"regexp"
	"strings"
	"testing"
)

// Each line is a command on the locks that those before have left; N is a token
// above the last one, LAST that one again, TTL a lease that began just now.
func TestLockCommands(t *testing.T) {
	clearEnv(t)
	try, last := onNode(t), "0"
	for _, tt := range []struct {
		args   string
		code   int
		stdout string
		stderr string // contained in it; empty: nothing on stderr
	}{
		{"get k", 0, "free", ""},
		{"get k --json", 0, `{"key":"k","held":false,"owner":"","token":"0","ttl_ms":0,"waiters":0,"permits":0,"holds":0,"holders":[],"queue":[]}`, ""},
		{"acquire k --owner a --ttl 1m --json", 0, `{"key":"k","held":true,"owner":"a","token":"N","ttl_ms":60000,"waiters":0}`, ""},
		{"acquire k --owner a", 0, "LAST", ""},
		{"acquire k --owner b --json", 1, `{"key":"k","held":false,"owner":"b","token":"0","ttl_ms":0,"waiters":0}`, ""},
		{"acquire k --owner b --wait 1ms", 1, "", "held by others; 0 wait"},
		{"get k --json", 0, `{"key":"k","held":true,"owner":"a","token":"LAST","ttl_ms":TTL,"waiters":0,"permits":1,"holds":1,` +
			`"holders":[{"owner":"a","token":"LAST","shared":false,"ttl_ms":TTL}],"queue":[]}`, ""},
		{"renew k --token LAST --ttl 10s --json", 0, `{"key":"k","held":true,"owner":"a","token":"LAST","ttl_ms":10000,"waiters":0}`, ""},
		{"renew k --token LAST", 0, "renewed for 30s", ""},
		{"renew k --token 7", 1, "", "NOT_HOLDER"},
		{"renew k --token 7 --json", 1, `{"error":`, ""},
		{"release k --token 7", 1, "", "NOT_HOLDER"},
		{"release k --token LAST --id once --json", 0, `{"key":"k","held":false,"owner":"a","token":"LAST","ttl_ms":0,"waiters":0}`, ""},
		{"release k --token LAST --id once", 0, "released", ""},
		{"release k --token LAST", 1, "", "NOT_HOLDER"},
		{"release k --owner a", 1, "", "NOT_HOLDER"},
		{"acquire k --owner a --permits 2", 0, "N", ""},
		{"acquire k --owner b --permits 2", 0, "N", ""},
		{"acquire k --owner c --permits 2", 1, "", "not had"},
		{"acquire k --owner c", 1, "", "INVALID_FIELD"},
		{"get k", 0, "holders 2 of 2, waiters 0\n\nOWNER  TOKEN", ""},
		{"release k --owner b --json", 0, `{"key":"k","held":false,"owner":"b","token":"0","ttl_ms":0,"waiters":0}`, ""},
		{"force-release k --reason gone", 0, "released from 1", ""},
		{"force-release k --reason gone --json", 0, `{"key":"k","held":false,"owner":"","token":"0","ttl_ms":0,"waiters":0,"released":0,"holders":[]}`, ""},
		{"acquire k --owner a --shared", 0, "N", ""},
		{"acquire k --owner b --shared", 0, "N", ""},
		{"acquire k --owner c", 1, "", "not had"},
		{"force-release k --reason gone --json", 0, `{"key":"k","held":false,"owner":"a","token":"`, ""},
		{"acquire {k}g --owner a --guard some:lock:7", 0, "N", ""},
		{"acquire {k}g --owner a --guard some:lock:6", 1, "", "FENCED_TOKEN"},
		{"renew {k}g --token LAST --guard some:lock:6", 1, "", "FENCED_TOKEN"},
		{"renew {k}g --token LAST --guard some:lock:8", 0, "renewed", ""},
		{"release {k}g --token LAST --guard some:lock:7 --json", 1, `{"error":`, ""},
		{"force-release {k}g --reason gone --guard some:lock:7", 1, "", "FENCED_TOKEN"},
		{"release {k}g --token LAST --guard some:lock:8", 0, "released", ""},
		{"acquire {k}g --owner a --guard 7", 2, "", "is not LOCKKEY:TOKEN"},
		{"release {k}g --owner a --guard lock:0", 2, "", "the token behind the last colon"},
		{"acquire {k}h --owner a", 0, "N", ""},
		{"acquire {k}h --owner a --shared", 1, "", "INVALID_FIELD"},
		{"acquire {k}h --owner a --permits 2", 1, "", "INVALID_FIELD"},
		{"acquire {k}h --owner b --permits 2 --wait 1h", 1, "", "INVALID_FIELD"},
		{"acquire {k}h --owner b --permits 100001", 1, "", "INVALID_FIELD"},
		{"acquire {k}h --owner b --ttl 8760h", 1, "", "INVALID_FIELD"},
		{"renew {k}h --token LAST --ttl 8760h", 1, "", "INVALID_FIELD"},
		{"renew {k}i --token LAST", 1, "", "NOT_HOLDER"},
		{"release {k}i --token LAST", 1, "", "NOT_HOLDER"},
		{"force-release {k}h --reason gone", 0, "released from 1", ""},
		{"renew {k}h --token LAST", 1, "", "NOT_HOLDER"},
		{"acquire k", 2, "", "missing flags: --owner"},
		{"acquire k --owner a --ttl 0s", 2, "", "--ttl 0s: must be more than 0"},
		{"acquire k --owner a --ttl 25h", 1, "", "INVALID_FIELD"},
		{"acquire k --owner a --wait -1s", 2, "", "--wait -1s: must not be negative"},
		{"acquire k --owner a --permits 0", 2, "", "--permits 0"},
		{"renew k", 2, "", "missing flags: --token"},
		{"renew k --token 0", 2, "", "is not a token"},
		{"renew k --token -1", 2, "", "is not a token"},
		{"renew k --token 7 --ttl -1s", 2, "", "--ttl -1s: must be more than 0"},
		{"release k", 2, "", "--token"},
		{"release k --token 7 --owner a", 2, "", "--token"},
		{"force-release k", 2, "", "missing flags: --reason"},
	} {
		args := strings.Fields("lock " + strings.ReplaceAll(tt.args, "LAST", last))
		got := try("", args...)
		if got.code != tt.code || (tt.stderr == "") != (got.stderr == "") || !strings.Contains(got.stderr, tt.stderr) {
			t.Errorf("%s: %v", tt.args, got)
		}
		want := regexp.QuoteMeta(tt.stdout)
		want = strings.ReplaceAll(want, "LAST", last)
		want = strings.ReplaceAll(want, "TTL", `(?:[1-9][0-9]*)`)
		if n := `([0-9]{3,})`; !strings.Contains(want, "TOKEN") && !strings.HasPrefix(want, `\{"e`) {
			want = regexp.MustCompile(`\bN\b`).ReplaceAllLiteralString(want, n)
		}
		match := regexp.MustCompile("^" + want).FindStringSubmatch(got.stdout)
		if match == nil || tt.stdout == "" && got.stdout != "" {
			t.Errorf("%s: %v\nwant %s", tt.args, got, want)
			continue
		}
		if len(match) > 1 {
			if len(match[1]) < len(last) || len(match[1]) == len(last) && match[1] <= last {
				t.Errorf("%s: token %s after %s", tt.args, match[1], last)
			}
			last = match[1]
		}
	}
}
