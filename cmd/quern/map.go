package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

type mapCommands struct {
	Put    mapPutCommand    `cmd:"" help:"Set an entry's value and print its new version."`
	Get    mapGetCommand    `cmd:"" help:"Print an entry's value; exits 1 where it is absent."`
	Delete mapDeleteCommand `cmd:"" help:"Make an entry absent and print the version that it had."`
	Watch  mapWatchCommand  `cmd:"" help:"Print what an entry holds and each change of it, until it is interrupted."`
}

// entry is the result of all map commands.
type entry struct {
	Key string `json:"key"`
	// Value is null where ValueBase64 has it, since it is not UTF-8.
	Value       *string `json:"value"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
	Version     uint64  `json:"version,string"` // it passes 2^53
	// Found says whether there was an entry when the command came.
	Found bool `json:"found"`
}

func newEntry(key string, value []byte, version uint64, found bool) entry {
	e := entry{Key: key, Version: version, Found: found}
	if utf8.Valid(value) {
		text := string(value)
		e.Value = &text
	} else {
		e.ValueBase64 = value
	}
	return e
}

// version is an entry's, as a flag has it.
type version uint64

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *version) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		return usagef("%q is not a version, a decimal number of 64 bits", text)
	}
	*v = version(n)
	return nil
}

func (v *version) pointer() *uint64 {
	if v == nil {
		return nil
	}
	n := uint64(*v)
	return &n
}

type entryKey struct {
	remote
	Key string `arg:"" help:"The entry's key, 1 to 512 bytes of UTF-8."`
}

type entryWrite struct {
	entryKey
	guarded
	IfVersion *version `placeholder:"N" help:"Refuse unless the entry has this version; 0 is that of an absent one."`
	ID        string   `name:"id" placeholder:"ID" help:"Idempotency key: the same command under the same id is applied once within 24 hours."`
}

// print prints a result: what people want of it alone for them.
func (k *entryKey) print(a *app, text string, result any) {
	if k.JSON {
		a.printJSON(result)
		return
	}
	fmt.Fprintln(a.stdout, text)
}

type mapPutCommand struct {
	entryWrite
	Value    string        `arg:"" help:"The value, up to 64 KiB; - reads it from stdin, as it is."`
	IfAbsent bool          `help:"Refuse if there is an entry."`
	TTL      time.Duration `name:"ttl" placeholder:"D" help:"Make the entry absent after it, such as 90s or 1h30m (default: keep it for ever)."`
}

// Run sets the value. It calls the method itself, since the handle does not
// return whether there was an entry.
func (k *mapPutCommand) Run(ctx context.Context, a *app) error {
	if k.IfAbsent && k.IfVersion != nil && *k.IfVersion != 0 {
		return usagef("--if-absent: excludes --if-version %d", *k.IfVersion)
	}
	if k.TTL < 0 {
		return usagef("--ttl %v: must not be negative", k.TTL)
	}
	value, err := k.value(a)
	if err != nil {
		return err
	}
	q := &quernv1.MapServicePutRequest{
		Key: k.Key, IdempotencyKey: k.ID, Guard: k.message(), Value: value, IfVersion: k.IfVersion.pointer(), IfAbsent: k.IfAbsent,
	}
	if k.TTL != 0 {
		q.Ttl = durationpb.New(k.TTL)
	}
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		var reply quernv1.MapServicePutResponse
		err := c.Invoke(ctx, &handles.Operation{
			Method: handles.MapPut, Key: k.Key, IdempotencyKey: k.ID, Request: q, Reply: &reply,
		})
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		k.print(a, strconv.FormatUint(reply.GetVersion(), 10), newEntry(k.Key, value, reply.GetVersion(), reply.GetFound()))
		return nil
	})
}

// maxStdin bounds what is read from stdin: more than any node takes.
const maxStdin = 1 << 20

// value is the argument or what stdin has.
func (k *mapPutCommand) value(a *app) ([]byte, error) {
	if k.Value != "-" {
		return []byte(k.Value), nil
	}
	value, err := io.ReadAll(io.LimitReader(a.stdin, maxStdin+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the value from stdin: %w", err)
	case len(value) > maxStdin:
		return nil, failure.New(failure.Limit, "the value on stdin has more than %d bytes", maxStdin)
	}
	return value, nil
}

type mapGetCommand struct{ entryKey }

// Run reads.
func (k *mapGetCommand) Run(ctx context.Context, a *app) error {
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		v, err := handles.NewMapEntry(c, k.Key).Get(ctx)
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		switch {
		case k.JSON:
			a.printJSON(newEntry(k.Key, v.Value, v.Version, v.Found()))
		case !v.Found():
			fmt.Fprintln(a.stderr, "quern: absent: there is no entry")
		case utf8.Valid(v.Value):
			fmt.Fprintf(a.stdout, "%s\n", v.Value)
		default:
			_, _ = a.stdout.Write(v.Value) // as it is: a line's end would be a part of it
		}
		if !v.Found() {
			return errSaid
		}
		return nil
	})
}

type mapDeleteCommand struct{ entryWrite }

// Run makes the entry absent. It calls the method itself, since the handle does
// not return the version.
func (k *mapDeleteCommand) Run(ctx context.Context, a *app) error {
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		var reply quernv1.MapServiceDeleteResponse
		err := c.Invoke(ctx, &handles.Operation{
			Method: handles.MapDelete, Key: k.Key, IdempotencyKey: k.ID, Reply: &reply,
			Request: &quernv1.MapServiceDeleteRequest{Key: k.Key, IdempotencyKey: k.ID, Guard: k.message(), IfVersion: k.IfVersion.pointer()},
		})
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		k.print(a, strconv.FormatUint(reply.GetVersion(), 10), newEntry(k.Key, nil, reply.GetVersion(), reply.GetFound()))
		if !k.JSON && !reply.GetFound() {
			fmt.Fprintln(a.stderr, "quern: absent: there was nothing to delete")
		}
		return nil
	})
}
