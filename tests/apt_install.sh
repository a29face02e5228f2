#!/bin/sh
# Install Debian packages as root; wait for a package manager that is busy, and say so when it stays busy.
#
#     sh tests/apt_install.sh PACKAGE...
#
# The lock of dpkg is waited for by apt-get itself, those of its lists and archives are not: hence the tries.
wait_seconds=${APT_WAIT_SECONDS:-15}
tries=${APT_TRIES:-20}
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
try=1
while :; do
	if { apt-get -qq -o DPkg::Lock::Timeout=300 update &&
		apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@"; } </dev/null >"$log" 2>&1; then
		exit 0
	fi
	if ! grep -qiE 'could not get lock|unable to (acquire|lock)|is another process using it' "$log"; then
		tail -n 5 "$log" >&2
		echo "apt-get could not install $*; see the lines above." >&2
		exit 1
	fi
	if [ "$try" -ge "$tries" ]; then
		echo "apt-get could not install $*: another package manager has held its lock for $tries tries," \
			"$wait_seconds s apart. Wait until it has ended and run the same command again." >&2
		exit 1
	fi
	echo "Another package manager is at work; trying again in $wait_seconds s ($try of $tries) ..." >&2
	try=$((try + 1))
	sleep "$wait_seconds"
done
