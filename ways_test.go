package quern_test

import (
	"context"
	"net/http"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// fronts are all ways to a node: its handles, a client's stream and its calls,
// and JSON over HTTP.
func fronts(t *testing.T) (*quern.Node, map[string]handles.Invoker) {
	t.Helper()
	node, ways := allWays(t)
	all := map[string]handles.Invoker{"json": jsonFront{t, node}}
	for name, to := range ways {
		all[name] = to
	}
	return node, all
}

// jsonFront is handles.Invoker as curl would be.
type jsonFront struct {
	t    *testing.T
	node *quern.Node
}

func (f jsonFront) Invoke(_ context.Context, op *handles.Operation) error {
	f.t.Helper()
	body, err := protojson.Marshal(op.Request)
	if err != nil {
		f.t.Fatal(err)
	}
	status, name, text := postJSON(f.t, f.node, op.Method.Procedure, string(body))
	if status != http.StatusOK {
		reason, known := failure.ParseReason(name)
		if !known {
			f.t.Errorf("%s: %d without a reason: %s", op.Method.Procedure, status, text)
		}
		return failure.New(reason, "%s", text)
	}
	if err := protojson.Unmarshal([]byte(text), op.Reply); err != nil {
		f.t.Errorf("%s: %v", text, err)
	}
	return nil
}

// ask makes one call whose reply nobody needs but for its failure.
func ask(ctx context.Context, to handles.Invoker, method *handles.Method, q interface {
	proto.Message
	GetKey() string
}, reply proto.Message,
) error {
	op := &handles.Operation{Method: method, Key: q.GetKey(), Request: q, Reply: reply}
	if o, ok := q.(interface{ GetIdempotencyKey() string }); ok {
		op.IdempotencyKey = o.GetIdempotencyKey()
	}
	return to.Invoke(ctx, op)
}
