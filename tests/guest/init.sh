#!/bin/sh
# Process 1 of the guest. What fails ends it before it says PASS.
set -eu
export PATH=/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
exec 2>&1
trap 'dmesg | tail -n 40; poweroff -f' EXIT

task=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^task=//p')
echo "guest: $(cut -d ' ' -f 3 /proc/version), $task"
case $task in
cluster) /cluster.sh ;;
*) CLUSTERD_GUEST=1 guest-tests "inside::$task::" --ignored --test-threads 1 --nocapture ;;
esac

dmesg >/tmp/dmesg
if grep -E 'WARNING:|BUG:|Oops|Call Trace|hung task|suspicious RCU' /tmp/dmesg; then exit 1; fi
trap 'poweroff -f' EXIT
echo "guest: PASS"
