#!/usr/bin/env bash
# scripts/test.sh GO-TEST-ARGUMENTS…: runs go test and says at the end which
# real services the tests used and which they lacked. With
# QUERN_REQUIRE_SERVICES=1 a test that lacks a service fails by itself.
set -uo pipefail

report=$(mktemp "${TMPDIR:-/tmp}/quern-services.XXXXXX")
trap 'rm -f "$report"' EXIT
# One line per use: "used NAME DETAIL" or "lacked NAME DETAIL".
export QUERN_SERVICES_REPORT=$report

go test "$@"
code=$?

echo
echo "Real services:"
if [[ -s $report ]]; then
	sort -u "$report" | sed 's/^/  /'
else
	echo "  none was asked for by these tests"
fi
exit "$code"
