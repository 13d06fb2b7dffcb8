#!/usr/bin/env bash
# scripts/postgres.sh: makes a PostgreSQL server available to the tests: initdb
# on PATH or in /usr/lib/postgresql/*/bin, or the distribution's packages unpacked
# under .tools/postgresql, or, where those lack libraries and this is root,
# installed. The first three need no root and change nothing in the system. Where
# it cannot be had it says so and succeeds: the tests then say that they lack it.
set -uo pipefail
cd "$(dirname "$0")/.."

version=15
to=$PWD/.tools/postgresql
unpacked=$to/usr/lib/postgresql/$version/bin

# runs BIN: whether the server in BIN can be run, with the libraries beside it.
runs() {
	local libraries
	libraries=$(printf '%s:' "$to"/usr/lib/*-linux-*)
	[[ -x $1/initdb && -x $1/postgres ]] || return 1
	[[ $1 == "$to"/* ]] || libraries=
	LD_LIBRARY_PATH=$libraries "$1/postgres" --version 2>/dev/null &&
		LD_LIBRARY_PATH=$libraries "$1/initdb" --version >/dev/null 2>&1
}

# QUERN_POSTGRES_FETCH passes over what is installed.
if [[ -z ${QUERN_POSTGRES_FETCH:-} ]]; then
	for bin in "$(dirname "$(readlink -f "$(command -v initdb)" 2>/dev/null)" 2>/dev/null)" /usr/lib/postgresql/*/bin; do
		if found=$(runs "$bin"); then
			echo "postgresql: $found in $bin"
			exit 0
		fi
	done
fi
if found=$(runs "$unpacked"); then
	echo "postgresql: $found in .tools/postgresql"
	exit 0
fi

lack() {
	echo "postgresql: not available: $1" >&2
	exit 0
}
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
	lack "neither installed nor a system with apt-get"

apt=$PWD/.tools/apt-postgresql
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs" "$to"
# Package lists and caches of our own, so that the system's stay as they are.
options=(-o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=)
apt-get -qq "${options[@]}" update || lack "apt-get update failed"

# fetch PACKAGE…: downloads packages and unpacks them.
fetch() {
	rm -f "$apt"/debs/*.deb
	(cd "$apt/debs" && apt-get -qq "${options[@]}" download "$@") || return 1
	local deb
	for deb in "$apt"/debs/*.deb; do
		dpkg-deb -x "$deb" "$to" || return 1
	done
}

fetch "postgresql-$version" libpq5 || lack "apt-get download failed"
# Its libraries, where the system has not got them.
if ! runs "$unpacked" >/dev/null; then
	fetch libicu72 libxml2 libldap-2.5-0 libsasl2-2 libssl3 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 \
		libcom-err2 libkeyutils1 libsystemd0 libpam0g libuuid1 liblz4-1 libzstd1 || true
fi
if ! runs "$unpacked" >/dev/null && ((EUID == 0)); then
	apt-get -qq "${options[@]}" install -y "postgresql-$version" >/dev/null || lack "apt-get install failed"
	rm -rf "$to"
	echo "postgresql: installed"
	exit 0
fi
found=$(runs "$unpacked") || lack "what was unpacked does not run: $("$unpacked/postgres" --version 2>&1)"
echo "postgresql: $found fetched into .tools/postgresql"
