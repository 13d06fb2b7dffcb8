package quern_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// TestTransactionsOnEveryWay: node, stream, calls and HTTP do the same.
func TestTransactionsOnEveryWay(t *testing.T) {
	t.Parallel()
	node, ways := allWays(t)
	stock := int64(0)
	for name, to := range ways {
		for range 3 {
			stock += 7
			x := handles.NewTxn(to, "sku").IfCounter("{sku}stock", handles.GreaterOrEqual, stock-7)
			put := x.MapPut("{sku}note", []byte(name), handles.PutOptions{})
			add, note := x.CounterAdd("{sku}stock", 7), x.MapGet("{sku}note")
			if err := x.Commit(t.Context()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			value, err := add.Value()
			version, err2 := put.Version()
			got, err3 := note.Value()
			if errors.Join(err, err2, err3) != nil || value != stock || got.Version != version || string(got.Value) != name || add.Origin().Node != node.Name() {
				t.Errorf("%s: %d, %d, %+v, %v; want %d", name, value, version, got, errors.Join(err, err2, err3), stock)
			}
		}
		for what, row := range map[string]struct {
			fill   func(*handles.Txn)
			reason failure.Reason
			place  string
		}{
			"condition":  {func(x *handles.Txn) { x.IfAbsent("{sku}note") }, failure.ConditionFailed, "conditions[0]: "},
			"operation":  {func(x *handles.Txn) { x.CounterAdd("{sku}big", 1<<62); x.CounterAdd("{sku}big", 1<<62) }, failure.Overflow, "operations[2]: "},
			"guard":      {func(x *handles.Txn) { x.Guarded(handles.Guard{Lock: "l", Token: 1}) }, failure.FencedToken, "operations[0]: "},
			"two shards": {func(x *handles.Txn) { x.CounterAdd("elsewhere", 1) }, failure.CrossShard, "operations[1]: "},
			"lock":       {func(x *handles.Txn) { x.IfHeld(handles.Guard{Lock: "{sku}lock", Token: 1}) }, failure.ConditionFailed, "conditions[0]: "},
		} {
			if _, err := handles.NewCounter(to, "{sku}stock").Guarded(handles.Guard{Lock: "l", Token: 2}).Add(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			x := handles.NewTxn(to, "sku")
			add := x.CounterAdd("{sku}stock", 1)
			row.fill(x)
			err := x.Commit(t.Context())
			if !errors.Is(err, row.reason) || failure.OutcomeOf(err) != failure.NotDone || !strings.Contains(err.Error(), row.place) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
			if _, again := add.Value(); !errors.Is(again, row.reason) {
				t.Errorf("%s, %s: the answer is %v", name, what, again)
			}
		}
		once := func() (int64, error) {
			x := handles.NewTxn(to, "sku").Once("id-" + name)
			add := x.CounterAdd("{sku}once", 1)
			if err := x.Commit(t.Context()); err != nil {
				return 0, err
			}
			return add.Value()
		}
		first, err := once()
		if second, again := once(); first != second || err != nil || again != nil {
			t.Errorf("%s: once: %d, %d, %v, %v", name, first, second, err, again)
		}
	}
	if got, err := node.Counter("{sku}stock").Get(t.Context()); got != stock || err != nil {
		t.Errorf("%d, %v, want %d", got, err, stock)
	}
}

// TestTransactionsOverHTTP with JSON that people write, good and bad.
func TestTransactionsOverHTTP(t *testing.T) {
	t.Parallel()
	node, _ := allWays(t)
	thousand := strings.TrimSuffix(strings.Repeat(`{"counterAdd":{"key":"{x}a"}},`, 1000), ",")
	for _, row := range []struct {
		body           string
		status         int
		reason, within string
	}{
		{`{"key":"x","conditions":[{"counter":{"key":"{x}a","comparison":"COMPARISON_EQUAL","value":"0"}}],"operations":[{"counterAdd":{"key":"{x}a","delta":"5"}},{"mapPut":{"key":"{x}m","value":"dg=="}},{"counterGet":{"key":"{x}a"}}]}`, http.StatusOK, "", `"counterGet":{"value":"5"`},
		{`{"key":"x","conditions":[{"counter":{"key":"{x}a","comparison":"COMPARISON_NOT_EQUAL","value":"5"}}],"operations":[{"counterAdd":{"key":"{x}a"}}]}`, http.StatusBadRequest, "CONDITION_FAILED", "conditions[0]: the counter is 5, not != 5"},
		{`{"key":"x","operations":[{"counterAdd":{"key":"{x}a"}},{"counterAdd":{"key":"b"}}]}`, http.StatusBadRequest, "CROSS_SHARD", "operations[1]"},
		{`{"key":"x","operations":[` + thousand + `]}`, http.StatusBadRequest, "INVALID_FIELD", "1000 operations"},
		{`{"key":"x"}`, http.StatusBadRequest, "INVALID_FIELD", "empty"},
		{`{"operations":[{"counterAdd":{"key":"a"}}]}`, http.StatusBadRequest, "INVALID_KEY", ""},
		{`{"key":"x","operations":[{}]}`, http.StatusBadRequest, "INVALID_FIELD", "operations[0]"},
		{`{"key":"x","operations":[{"counterAdd":{}}]}`, http.StatusBadRequest, "INVALID_KEY", "operations[0]"},
		{`{"key":"x","operations":[{"treeAdd":{"key":"{x}a"}}]}`, http.StatusBadRequest, "", "treeAdd"},
		{`{"key":"x","operations":[{"counterAdd":{"key":"{x}a","idempotencyKey":"i"}}]}`, http.StatusBadRequest, "INVALID_FIELD", "operations[0]"},
		{`{"key":"x","operations":[{"mapPut":{"key":"{x}a","value":"` + strings.Repeat("AAAA", 22_000) + `"}}]}`, http.StatusBadRequest, "LIMIT", "operations[0]"},
		{`{"key":"x","operations":[{"counterAdd":{"key":"{x}a"}},{"counterAdd":{"key":"{x}a"}}]}`, http.StatusOK, "", `"value":"7"`},
	} {
		status, reason, text := postJSON(t, node, "/quern.v1.TransactionService/Commit", row.body)
		if status != row.status || row.reason != "" && reason != row.reason || !strings.Contains(text, row.within) {
			t.Errorf("%.100s: %d %s %.300s", row.body, status, reason, text)
		}
	}
}
