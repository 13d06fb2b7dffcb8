package actors

import "github.com/quern-io/quern/failure"

// Reraise ends the present activation of every shard that serves, since what
// proved its ownership was lost for a while: operations that were begun get
// "outcome unknown", later ones wait. Each shard raises its epoch from its own
// and reads everything anew; one that another has raised meanwhile is lost. It
// returns at once.
func (r *Runtime) Reraise(why error) {
	err := failure.Wrap(why, failure.OutcomeUnknown, "the store was lost for a while; the operation perhaps happened")
	for _, s := range r.shards {
		s.box.post(func() { s.reload(err) })
	}
}
