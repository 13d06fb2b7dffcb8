package peers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/quern-io/quern/handles"
)

// releaseScript deletes a lock only where it still has the caller's token.
const releaseScript = `if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("del", KEYS[1]) end return 0`

// RedisLocks is the usual lock on Redis: SET NX PX with a fresh token, and a
// script that compares and deletes. Each caller has a connection of its own.
type RedisLocks struct {
	callers []*redisCaller
	script  string // its digest
}

type redisCaller struct {
	conn   net.Conn
	in     *bufio.Reader
	out    []byte
	prefix string
	taken  int // how often: what makes a token fresh
}

// Locks connects so many callers. Close what it returns.
func (r *Redis) Locks(ctx context.Context, callers int) (*RedisLocks, error) {
	l := &RedisLocks{}
	var d net.Dialer
	for i := range callers {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)))
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("peers: redis: %w", err)
		}
		l.callers = append(l.callers, &redisCaller{conn: conn, in: bufio.NewReader(conn), prefix: strconv.Itoa(i) + ":"})
	}
	var err error
	if l.script, err = l.callers[0].do("SCRIPT", "LOAD", releaseScript); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Take implements Locks.
func (l *RedisLocks) Take(_ context.Context, caller int, key string) (bool, error) {
	c := l.callers[caller]
	c.taken++
	answer, err := c.do("SET", key, c.token(), "NX", "PX", strconv.FormatInt(handles.DefaultLockTTL.Milliseconds(), 10))
	return answer == "OK", err
}

// Give implements Locks.
func (l *RedisLocks) Give(_ context.Context, caller int, key string) (bool, error) {
	c := l.callers[caller]
	answer, err := c.do("EVALSHA", l.script, "1", key, c.token())
	return answer == "1", err
}

// Close ends the connections.
func (l *RedisLocks) Close() {
	for _, c := range l.callers {
		_ = c.conn.Close() // nothing is under way
	}
}

func (c *redisCaller) token() string { return c.prefix + strconv.Itoa(c.taken) }

// do sends a command and returns its answer as text, nil as none.
func (c *redisCaller) do(args ...string) (string, error) {
	c.out = fmt.Appendf(c.out[:0], "*%d\r\n", len(args))
	for _, arg := range args {
		c.out = append(strconv.AppendInt(append(c.out, '$'), int64(len(arg)), 10), "\r\n"...)
		c.out = append(append(c.out, arg...), "\r\n"...)
	}
	if _, err := c.conn.Write(c.out); err != nil {
		return "", fmt.Errorf("peers: redis: %w", err)
	}
	answer, err := readRedis(c.in)
	if err != nil {
		return "", fmt.Errorf("peers: redis: %s: %w", args[0], err)
	}
	return answer, nil
}

// readRedis reads one answer that is no array.
func readRedis(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return "", errors.New("an empty answer")
	}
	switch line[0] {
	case '+', ':':
		return line[1:], nil
	case '-':
		return "", errors.New(line[1:])
	case '$':
		n, err := strconv.Atoi(line[1:])
		if err != nil || n < 0 {
			return "", err
		}
		text := make([]byte, n+len("\r\n"))
		if _, err := io.ReadFull(r, text); err != nil {
			return "", err
		}
		return string(text[:n]), nil
	default:
		return "", fmt.Errorf("unexpected answer %q", line)
	}
}
