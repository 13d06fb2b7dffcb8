#!/usr/bin/env bash
# scripts/bench-peers.sh: runs the comparison with the peers and keeps its raw
# output, with the machine and the versions, under bench/results/.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p bench/results
out=bench/results/peers-$(date -u +%Y%m%dT%H%M%SZ).txt
{
	echo "date: $(date -u +%Y-%m-%dT%H:%M:%SZ)"
	echo "commit: $(git describe --always --dirty 2>/dev/null || echo unknown)"
	echo "cpu: $(nproc) × $(sed -nE 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -1)"
	echo "kernel: $(uname -sr)"
	echo "go: $(go env GOVERSION)"
	echo "load before: $(cut -d' ' -f1-3 /proc/loadavg)"
	echo "command: QUERN_BENCH_PEERS=1 go test -count=1 -v -timeout=40m -run='^TestCompare(InProcess|Redis|RedisLean|OneCaller|Locks|HandOver|Map)$' ./bench/peers"
} | tee "$out"
QUERN_BENCH_PEERS=1 go test -count=1 -v -timeout=40m -run='^TestCompare(InProcess|Redis|RedisLean|OneCaller|Locks|HandOver|Map)$' ./bench/peers 2>&1 | tee -a "$out"
echo "load after: $(cut -d' ' -f1-3 /proc/loadavg)" | tee -a "$out"
echo "bench-peers: raw output in $out"
