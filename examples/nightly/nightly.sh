#!/bin/sh
# Runs a job once a night in a fleet in which every machine has it in cron:
#
#	15 3 * * *  nightly.sh backup --all
#
# One machine runs it, the others wait. Where that one dies, its lease ends and
# the next one begins anew: the job runs to its end at least once, and never
# twice at a time. QUERN_ADDR names the nodes.
set -eu

: "${QUERN:=quern}" # the program
night="nightly:{$1}:$(date -u +%F)"

if [ -z "${QUERN_FENCING_TOKEN:-}" ]; then
	exec "$QUERN" lock run "$night" --ttl 1m --wait 3h -- "$0" "$@"
fi

# From here on the lock is held. Has somebody done it tonight?
code=0
"$QUERN" map get "$night" >/dev/null 2>&1 || code=$?
case $code in
0) exit 0 ;;
1) ;; # not yet
*) exit "$code" ;; # nobody knows: cron's mail says so
esac

"$@"
"$QUERN" map put "$night" "$(hostname)" --ttl 48h >/dev/null
