#!/usr/bin/env bash
# scripts/test.sh GO-TEST-ARGUMENTS…: runs go test and says at the end which
# real services the tests used and which they lacked. With
# QUERN_REQUIRE_SERVICES=1 a test that lacks a service fails by itself.
# ALONE="PACKAGE…" names packages that are tested afterwards, by themselves and
# without the race detector: they measure how long clusters pause.
set -uo pipefail

report=$(mktemp "${TMPDIR:-/tmp}/quern-services.XXXXXX")
trap 'rm -f "$report"' EXIT
# One line per use: "used NAME DETAIL" or "lacked NAME DETAIL".
export QUERN_SERVICES_REPORT=$report

go test "$@"
code=$?
if [[ -n ${ALONE:-} ]]; then
	# shellcheck disable=SC2086 # several packages
	go test -count=1 -p=1 -timeout=15m -v $ALONE || code=1
fi

echo
echo "Real services:"
if [[ -s $report ]]; then
	sort -u "$report" | sed 's/^/  /'
else
	echo "  none was asked for by these tests"
fi
exit "$code"
