#!/bin/sh
# Chromium for the browser tests and for screenshots.
#
#   scripts/chromium.sh install    bring it here from Debian's packages, if it is not (needs root)
#   scripts/chromium.sh path       where it is
set -eu

path() {
	for name in chromium chromium-browser google-chrome chrome; do
		if command -v "$name"; then
			return
		fi
	done
	echo "there is no Chromium on this machine; scripts/chromium.sh install brings it" >&2
	exit 3
}

install() {
	if (path) >/dev/null 2>&1; then
		return
	fi
	exec 9>"${TMPDIR:-/tmp}/tutelage-install.lock" # one at a time: tests run side by side
	flock 9
	if (path) >/dev/null 2>&1; then
		return
	fi
	if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
		echo "Chromium can be installed here by root, with apt-get, only" >&2
		exit 3
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq >&2
	apt-get install -qq --yes --no-install-recommends chromium fonts-dejavu-core >&2
}

case "${1:-}" in
install) install ;;
path) path ;;
*)
	echo "usage: scripts/chromium.sh install | path" >&2
	exit 2
	;;
esac
