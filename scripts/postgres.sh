#!/bin/sh
# A throw-away PostgreSQL for the tests and the benchmarks.
#
#   scripts/postgres.sh install            bring the server here from Debian's packages, if it is not (needs root)
#   scripts/postgres.sh serve [OPTIONS]    start an empty one; prints its URL, stops and is gone when stdin ends
#
# It listens on a socket in its own folder only, so any number run side by side. PostgreSQL refuses to run as root:
# there it runs as the user postgres, or nobody. OPTIONS go to the server, such as: -c fsync=off
set -eu

bin() {
	for folder in "$(dirname "$(command -v initdb || echo /nowhere/initdb)")" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin; do
		if [ -x "$folder/initdb" ] && [ -x "$folder/pg_ctl" ]; then
			echo "$folder"
			return
		fi
	done
	echo "there is no PostgreSQL server on this machine; scripts/postgres.sh install brings it" >&2
	exit 3
}

install() {
	if (bin) >/dev/null 2>&1; then
		return
	fi
	exec 9>"${TMPDIR:-/tmp}/tutelage-install.lock" # one at a time: tests run side by side
	flock 9
	if (bin) >/dev/null 2>&1; then
		return
	fi
	if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
		echo "PostgreSQL can be installed here by root, with apt-get, only" >&2
		exit 3
	fi
	mkdir -p /etc/postgresql-common # no server of the whole machine: only ours
	[ -e /etc/postgresql-common/createcluster.conf ] ||
		echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq >&2
	apt-get install -qq --yes --no-install-recommends postgresql >&2
}

as_other() { # run the words as somebody PostgreSQL runs as
	if [ "$(id -u)" -ne 0 ]; then
		"$@"
	else
		setpriv --reuid="$owner" --regid="$(id -g "$owner")" --clear-groups "$@"
	fi
}

serve() {
	bin=$(bin)
	owner=postgres
	id "$owner" >/dev/null 2>&1 || owner=nobody
	folder=$(mktemp -d /tmp/tutelage-pg.XXXXXX) # short: a socket's path has at most 107 characters
	trap 'finish' EXIT
	trap 'exit 130' INT TERM HUP
	[ "$(id -u)" -ne 0 ] || chown "$owner" "$folder"
	cd "$folder"
	as_other "$bin/initdb" --pgdata="$folder/data" --username=tutelage --auth=trust --encoding=UTF8 --locale=C \
		--no-sync >"$folder/initdb.log" 2>&1 || { cat "$folder/initdb.log" >&2; exit 1; }
	as_other "$bin/pg_ctl" --pgdata="$folder/data" --log="$folder/data/log" --wait --timeout=120 --silent \
		--options="-c listen_addresses='' -c unix_socket_directories='$folder' $*" start >&2 ||
		{ cat "$folder/data/log" >&2; exit 1; }
	echo "postgresql://tutelage@/postgres?host=$folder"
	cat >/dev/null
}

finish() {
	cd /
	as_other "$bin/pg_ctl" --pgdata="$folder/data" --mode=immediate --silent stop >/dev/null 2>&1 || true
	rm -rf "$folder"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
install) install ;;
serve) serve "$@" ;;
*)
	sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
