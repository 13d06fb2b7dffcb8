#!/usr/bin/env bash
# scripts/breaking.sh [REF]: checks proto/ against an earlier version of it.
# Without REF that is the last tag before this commit; where there is none, the
# point at which this branch left main; on main itself, the commit before.
# Where there is no earlier version at all, there is nothing to check.
set -euo pipefail
cd "$(dirname "$0")/.."

base() {
	local head ref fork
	head=$(git rev-parse --verify --quiet HEAD) || return 0
	if git describe --tags --abbrev=0 'HEAD^' 2>/dev/null; then
		return
	fi
	for ref in refs/remotes/origin/main refs/heads/main; do
		fork=$(git merge-base HEAD "$ref" 2>/dev/null) || continue
		if [[ $fork != "$head" ]]; then
			echo "$fork"
			return
		fi
	done
	# On main: changes that are not committed yet are checked against HEAD.
	if [[ -n $(git status --porcelain -- proto) ]]; then
		echo "$head"
		return
	fi
	git rev-parse --verify --quiet 'HEAD^' || true
}

against=${1:-$(base)}
if [[ -z $against ]] || ! git cat-file -e "$against:proto/buf.yaml" 2>/dev/null; then
	echo "breaking: no earlier version of proto/ here; nothing to check"
	exit 0
fi
echo "breaking: against $(git describe --tags --always "$against")"

earlier=$(mktemp -d "${TMPDIR:-/tmp}/quern-breaking.XXXXXX")
trap 'rm -rf "$earlier"' EXIT
git archive "$against" proto | tar -x -C "$earlier"
tools=$PWD/tools/go.mod
cd proto
go tool -modfile="$tools" buf breaking --against "$earlier/proto"
