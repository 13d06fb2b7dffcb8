#!/usr/bin/env bash
# scripts/run.sh QUERN [BENCH FLAGS…]: starts one node on the embedded store in
# a temporary folder and on free ports, runs the load bench against it and
# exits as the bench does. Leaves no process and no folder.
set -euo pipefail

quern=$1
shift

folder=$(mktemp -d "${TMPDIR:-/tmp}/quern-run.XXXXXX")
node=
bench=

# stop PID: asks a child to end and waits for it; kills it after 30 s.
stop() {
	local pid=$1 i
	kill -TERM "$pid" 2>/dev/null || true
	for ((i = 0; i < 300; i++)); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
}

cleanup() {
	local code=$?
	trap '' HUP INT TERM
	trap - EXIT
	[[ -z $bench ]] || stop "$bench"
	[[ -z $node ]] || stop "$node"
	rm -rf "$folder"
	exit "$code"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# The node goes with this script even when the script is killed.
tie=()
if command -v setpriv >/dev/null && setpriv --pdeathsig TERM true 2>/dev/null; then
	tie=(setpriv --pdeathsig TERM)
fi

"${tie[@]}" "$quern" serve --store embedded --data "$folder/data" \
	--listen 127.0.0.1:0 --http 127.0.0.1:0 >"$folder/log" 2>&1 &
node=$!

for ((i = 0; ; i++)); do
	[[ -s $folder/data/node.json ]] && break
	if ! kill -0 "$node" 2>/dev/null || ((i == 600)); then
		echo "run: the node did not start:" >&2
		cat "$folder/log" >&2
		exit 1
	fi
	sleep 0.05
done
addr=$(sed -nE 's/.*"grpc"[[:space:]]*:[[:space:]]*"([^"]+)".*/\1/p' "$folder/data/node.json")
echo "run: node at $addr, embedded store in $folder/data" >&2

# In the background, so that a signal is not kept waiting by the bench.
"$quern" bench run --target "$addr" "$@" &
bench=$!
code=0
wait "$bench" || code=$?
bench=

stop "$node"
node=
if ((code != 0)); then
	echo "run: the bench exited with $code; the end of the node's log:" >&2
	tail -n 20 "$folder/log" >&2
fi
exit "$code"
