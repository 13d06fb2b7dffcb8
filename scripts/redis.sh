#!/usr/bin/env bash
# scripts/redis.sh: makes redis-server and redis-benchmark available to the
# benchmarks: those on PATH, or the distribution's packages unpacked under
# .tools/redis. Needs no root and changes nothing in the system. Where they
# cannot be had it says so and succeeds: the comparison then lacks Redis.
set -uo pipefail
cd "$(dirname "$0")/.."

if command -v redis-server >/dev/null && command -v redis-benchmark >/dev/null; then
	echo "redis: $(redis-server --version | grep -oE 'v=[^ ]+') on PATH"
	exit 0
fi
to=$PWD/.tools/redis
if [[ -x $to/usr/bin/redis-server && -x $to/usr/bin/redis-benchmark ]]; then
	echo "redis: in .tools/redis"
	exit 0
fi
lack() {
	echo "redis: not available: $1" >&2
	exit 0
}
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
	lack "neither on PATH nor a system with apt-get"

apt=$PWD/.tools/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs" "$to"
# Package lists and caches of our own, so that the system's stay as they are.
options=(-o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=)
apt-get -qq "${options[@]}" update || lack "apt-get update failed"
(cd "$apt/debs" && apt-get -qq "${options[@]}" download redis-server redis-tools \
	libjemalloc2 liblua5.1-0 liblzf1 libatomic1 libhiredis0.14 libssl3 libsystemd0) ||
	lack "apt-get download failed"
for deb in "$apt"/debs/*.deb; do
	dpkg-deb -x "$deb" "$to" || lack "cannot unpack $deb"
done
rm -rf "$apt"
echo "redis: fetched into .tools/redis"
