#!/bin/sh
# A throw-away nginx for the tests of the studio behind a proxy.
#
#   scripts/nginx.sh install        bring nginx and openssl here from Debian's packages, if they are not (needs root)
#   scripts/nginx.sh serve CONFIG   serve CONFIG, a file of server blocks; prints "ready", stops when stdin ends
#
# Nothing of the machine's own nginx is read or touched: its files lie in a folder of their own, gone with it.
set -eu

bin() {
	for file in "$(command -v nginx || true)" /usr/sbin/nginx /usr/local/sbin/nginx; do
		if [ -x "$file" ]; then
			echo "$file"
			return
		fi
	done
	echo "there is no nginx on this machine; scripts/nginx.sh install brings it" >&2
	exit 3
}

there() {
	(bin) >/dev/null 2>&1 && command -v openssl >/dev/null
}

install() {
	if there; then
		return
	fi
	exec 9>"${TMPDIR:-/tmp}/tutelage-install.lock" # one at a time: tests run side by side
	flock 9
	if there; then
		return
	fi
	if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
		echo "nginx can be installed here by root, with apt-get, only" >&2
		exit 3
	fi
	if [ ! -e /usr/sbin/policy-rc.d ]; then # no server of the whole machine: only ours
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod 755 /usr/sbin/policy-rc.d
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq >&2
	apt-get install -qq --yes --no-install-recommends nginx-light openssl >&2
}

serve() {
	bin=$(bin)
	config=$(realpath "$1")
	folder=$(mktemp -d /tmp/tutelage-nginx.XXXXXX)
	chmod 711 "$folder" # as root its workers run as somebody else
	trap 'finish' EXIT
	trap 'exit 130' INT TERM HUP
	cat >"$folder/nginx.conf" <<-END
		pid $folder/pid;
		error_log $folder/error.log;
		events {}
		http {
			access_log $folder/access.log;
			client_body_temp_path $folder/body;
			proxy_temp_path $folder/proxy;
			fastcgi_temp_path $folder/fastcgi;
			uwsgi_temp_path $folder/uwsgi;
			scgi_temp_path $folder/scgi;
			include $config;
		}
	END
	if ! "$bin" -e "$folder/error.log" -p "$folder" -c "$folder/nginx.conf" >&2; then
		cat "$folder/error.log" >&2
		exit 1
	fi
	echo ready
	cat >/dev/null
}

finish() {
	[ ! -e "$folder/pid" ] || kill -QUIT "$(cat "$folder/pid")" 2>/dev/null || true
	rm -rf "$folder"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
install) install ;;
serve) serve "$@" ;;
*)
	sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
