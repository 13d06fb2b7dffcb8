package server_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/server"
)

// TestWaitOutlastsTheReadTimeout: that bounds a request's arrival, not how long
// its call may wait.
func TestWaitOutlastsTheReadTimeout(t *testing.T) {
	t.Parallel()
	f := &fake{answer: func(ctx context.Context, _ *handles.Operation) error {
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	s := start(t, f, func(c *server.Config) { c.ReadTimeout = 100 * time.Millisecond })
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		"http://"+s.HTTPAddr()+"/quern.v1.LockService/Acquire", strings.NewReader(`{"key":"k","owner":"o","ttl":"1s","wait":"10s"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("status %d", response.StatusCode)
	}
}
