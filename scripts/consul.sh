#!/usr/bin/env bash
# scripts/consul.sh: makes consul available to the tests: the one on PATH, or
# Debian 11's package unpacked under .tools/consul (later releases have none).
# Needs no root and changes nothing in the system. Where it cannot be had it
# says so and succeeds: the tests that need it then say what they lack.
set -uo pipefail
cd "$(dirname "$0")/.."

if command -v consul >/dev/null; then
	echo "consul: $(consul version | head -1) on PATH"
	exit 0
fi
to=$PWD/.tools/consul
if [[ -x $to/usr/bin/consul ]]; then
	echo "consul: in .tools/consul"
	exit 0
fi
lack() {
	echo "consul: not available: $1" >&2
	rm -rf "$work"
	exit 0
}
work=$PWD/.tools/apt-consul
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
	lack "neither on PATH nor a system with apt-get"

# fresh NAME: makes lists and caches of their own, so that the system's stay as
# they are.
fresh() {
	mkdir -p "$work/$1/lists/partial" "$work/$1/cache/archives/partial"
	options=(-o "Dir::State::Lists=$work/$1/lists" -o "Dir::Cache=$work/$1/cache" -o APT::Sandbox::User=)
}

rm -rf "$work"
fresh system
apt-get -qq "${options[@]}" update || lack "apt-get update failed"
# Without lists of its own indextargets prints nothing.
mirror=$(apt-get "${options[@]}" indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' | head -1)
[[ -n $mirror ]] || lack "the system's package sources name no Debian mirror"

fresh bullseye
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
signed=
[[ -r $keyring ]] && signed="[signed-by=$keyring] "
echo "deb ${signed}$mirror bullseye main" >"$work/sources.list"
options+=(-o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null)
apt-get -qq "${options[@]}" update || lack "apt-get update of Debian 11 failed"
mkdir -p "$work/debs"
(cd "$work/debs" && apt-get -qq "${options[@]}" download consul) || lack "apt-get download failed"

# Unpacked aside and moved, so that a broken run leaves nothing that looks whole.
mkdir -p "$work/root"
dpkg-deb -x "$work"/debs/consul_*.deb "$work/root" || lack "cannot unpack the package"
"$work/root/usr/bin/consul" version >/dev/null || lack "the program does not run here"
rm -rf "$to"
mv "$work/root" "$to"
rm -rf "$work"
echo "consul: fetched into .tools/consul"
