package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

type clusterCommands struct {
	Status statusCommand `cmd:"" help:"List the nodes and how many shards each owns."`
	Where  whereCommand  `cmd:"" help:"Say which node owns a key."`
}

type statusCommand struct{ remote }

type statusResult struct {
	Cluster     string       `json:"cluster"`
	Store       string       `json:"store"`
	Durable     bool         `json:"durable"`
	Nodes       []statusNode `json:"nodes"`
	ShardsTotal uint32       `json:"shards_total"`
	ShardsOwned uint32       `json:"shards_owned"`
}

type statusNode struct {
	Node   string `json:"node"`
	Addr   string `json:"addr"`
	State  string `json:"state"`
	Shards uint32 `json:"shards"`
}

// Run lists the nodes.
func (k *statusCommand) Run(ctx context.Context, a *app) error {
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		s, err := c.Status(ctx)
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		if k.JSON {
			a.printJSON(statusOf(s))
			return nil
		}
		return a.printStatus(statusOf(s))
	})
}

func statusOf(s *quernv1.ClusterServiceStatusResponse) statusResult {
	r := statusResult{
		Cluster: s.GetCluster(), Store: s.GetStore(), Durable: s.GetDurable(), Nodes: []statusNode{},
		ShardsTotal: s.GetShardsTotal(), ShardsOwned: s.GetShardsOwned(),
	}
	for _, n := range s.GetNodes() {
		r.Nodes = append(r.Nodes, statusNode{n.GetNode(), n.GetAddr(), n.GetState(), n.GetShards()})
	}
	return r
}

func (a *app) printStatus(s statusResult) error {
	if s.Cluster != "" {
		fmt.Fprintf(a.stdout, "cluster %s\n", s.Cluster)
	}
	durable := "durable"
	if !s.Durable {
		durable = "not durable: gone when the process ends"
	}
	fmt.Fprintf(a.stdout, "store   %s (%s)\nshards  %d of %d owned\n\n", s.Store, durable, s.ShardsOwned, s.ShardsTotal)
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tADDR\tSTATE\tSHARDS")
	for _, n := range s.Nodes {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\n", n.Node, n.Addr, n.State, n.Shards)
	}
	return t.Flush() //nolint:wrapcheck // stdout's own error
}

type whereCommand struct {
	remote
	Key string `arg:"" help:"The key."`
}

// Run says who owns a key.
func (k *whereCommand) Run(ctx context.Context, a *app) error {
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		w, err := c.Where(ctx, k.Key)
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		if !k.JSON {
			fmt.Fprintf(a.stdout, "shard %d on %s at %s, epoch %d\n", w.GetShard(), w.GetNode(), w.GetAddr(), w.GetEpoch())
			return nil
		}
		a.printJSON(struct {
			Key   string `json:"key"`
			Shard uint32 `json:"shard"`
			Node  string `json:"node"`
			Addr  string `json:"addr"`
			Epoch uint64 `json:"epoch,string"`
		}{w.GetKey(), w.GetShard(), w.GetNode(), w.GetAddr(), w.GetEpoch()})
		return nil
	})
}
