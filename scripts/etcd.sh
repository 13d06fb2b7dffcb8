#!/usr/bin/env bash
# scripts/etcd.sh: makes etcd available to the benchmarks: the one on PATH, or
# the distribution's package unpacked under .tools/etcd. Needs no root and
# changes nothing in the system. Where it cannot be had it says so and
# succeeds: the comparison then lacks etcd.
set -uo pipefail
cd "$(dirname "$0")/.."

if command -v etcd >/dev/null; then
	echo "etcd: $(etcd --version | head -1) on PATH"
	exit 0
fi
to=$PWD/.tools/etcd
if [[ -x $to/usr/bin/etcd ]]; then
	echo "etcd: in .tools/etcd"
	exit 0
fi
work=$PWD/.tools/apt-etcd
lack() {
	echo "etcd: not available: $1" >&2
	rm -rf "$work"
	exit 0
}
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
	lack "neither on PATH nor a system with apt-get"

rm -rf "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/root"
# Package lists and caches of our own, so that the system's stay as they are.
options=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=)
apt-get -qq "${options[@]}" update || lack "apt-get update failed"
(cd "$work/debs" && apt-get -qq "${options[@]}" download etcd-server) || lack "apt-get download failed"

# Unpacked aside and moved, so that a broken run leaves nothing that looks whole.
dpkg-deb -x "$work"/debs/etcd-server_*.deb "$work/root" || lack "cannot unpack the package"
"$work/root/usr/bin/etcd" --version >/dev/null || lack "the program does not run here"
rm -rf "$to"
mv "$work/root" "$to"
rm -rf "$work"
echo "etcd: fetched into .tools/etcd"
