package faultstream

import (
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// columns is what is known of the columns of a stream, part by part.
type columns struct {
	current map[uint64]*quernv1.StreamColumn // unanswered, by id
	fate    map[*quernv1.StreamColumn][]fate
}

// Column implements frame.Responses.
func (v *answers) Column(encoded []byte) error {
	var reply frame.ColumnReply
	if err := frame.ReadColumnReply(encoded, &reply); err != nil {
		return err
	}
	all := &v.record.columns
	c := all.current[reply.ID]
	delete(all.current, reply.ID)
	fates := make([]fate, len(reply.Replies))
	for i := range fates {
		fates[i] = done
	}
	for _, e := range reply.Errors {
		if e.Err.Outcome() == failure.NotDone {
			fates[e.Part] = notDone
		}
	}
	all.fate[c] = fates
	return nil
}

// again returns a column with those of its parts that may come again; nil where
// there are none.
func (a *columns) again(c *quernv1.StreamColumn, broken bool) *quernv1.StreamColumn {
	fates, answered := a.fate[c]
	copied := &quernv1.StreamColumn{Id: c.GetId(), Method: c.GetMethod(), TimeoutMs: c.GetTimeoutMs()}
	key := 0
	for i, count := range c.GetCounts() {
		from, to := key, key+int(count)
		key = to
		if !answered && !broken || answered && fates[i] != done {
			continue
		}
		copied.Shards, copied.Counts = append(copied.Shards, c.GetShards()[i]), append(copied.Counts, count)
		copied.Numbers, copied.Settled = append(copied.Numbers, c.GetNumbers()[i]), append(copied.Settled, c.GetSettled()[i])
		if len(c.GetSettledOther()) > 0 {
			copied.SettledOther = append(copied.SettledOther, c.GetSettledOther()[i])
		}
		copied.Keys = append(copied.Keys, c.GetKeys()[from:to]...)
		if len(c.GetDeltas()) > 0 {
			copied.Deltas = append(copied.Deltas, c.GetDeltas()[from:to]...)
		}
	}
	if len(copied.GetShards()) == 0 {
		return nil
	}
	return copied
}
