package clusterproc

// FastConsul is how docs/operations.md would have the servers of Consul set, as
// HCL: a lost machine is noticed in about as long as a lost process, which is
// the TTL of a member's check, and a server that was cut off has its vote again
// as soon as it is back.
const FastConsul = `
performance { raft_multiplier = 1 }
gossip_lan { probe_interval = "300ms" probe_timeout = "200ms" suspicion_mult = 4 gossip_interval = "100ms" }
autopilot { min_quorum = 3 }
`
