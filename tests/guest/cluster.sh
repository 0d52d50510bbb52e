#!/bin/sh
# A cluster in namespaces of Debian's kernel: held packets come by the nft expression
# `queue`, and everything has to be loaded as a module first.
set -eu
exec 2>/run/stderr # `lab run` shows its progress on a terminal
trap 'status=$?; [ $status = 0 ] || cat /run/stderr; exit $status' EXIT

say() { echo "guest: $*"; }
run() { echo "$*"; "$@"; }
# `!` alone would not end the script.
not() { if "$@"; then echo "FAIL: $*"; exit 1; fi; }
loaded() { grep "^$1 " /proc/modules; }
daemons() { # SIGNAL
    for pid in $(sed -n 's/^ *"daemon_pid": *\([0-9]*\).*/\1/p' /run/lab); do kill -"$1" "$pid"; done
}

# With a killed host goes whoever it had answered and not served yet; nobody else.
run_and_kill() {
    echo "$*"
    if "$@" >/run/killed; then cat /run/killed; return; fi
    cat /run/killed
    failed=$(sed -n 's/.* \([0-9]*\) failed$/\1/p' /run/killed)
    lost=$(sed -n 's/^ *\([0-9]*\) connected, but no answer.*/\1/p' /run/killed)
    test -n "$failed" && test "$failed" = "$lost"
}

all_buckets=$(seq -s , 0 255)

# Raises a lab, sees which of two modules holds the packets, makes one connection.
look() {
    clusterd lab up --guard strict --json | tr '{,}' '\n' >/run/lab
    run clusterd lab exec h1 nft list chain inet clusterd_10.77.0.2 contest
    run loaded "$1"
    not loaded "$2"
    echo hello | clusterd lab exec client nc 10.77.0.2 80 | grep '^h'
    run clusterd lab exec client ping -c 1 10.77.0.2
    # All buckets to h2, and the kernel decides by them. A daemon that runs would say otherwise.
    daemons STOP
    for host in h1 h2 h3; do
        clusterd lab exec $host nft add element inet clusterd_10.77.0.2 by_bucket '{ tcp }'
        clusterd lab exec $host nft flush set inet clusterd_10.77.0.2 own_buckets
    done
    clusterd lab exec h2 nft add element inet clusterd_10.77.0.2 own_buckets "{ $all_buckets }"
    echo hello | clusterd lab exec client nc 10.77.0.2 80 | grep '^h2'
    daemons CONT
    run clusterd lab down
}

# A namespace goes some time after the last process in it, and the use of a module with it.
nothing_left() {
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        if rmmod "$1" 2>/dev/null; then break; fi
        sleep 1
    done
    not loaded "$1"
    not grep clusterd /proc/[0-9]*/comm
    test -z "$(ip netns; nft list ruleset; ls /sys/class/net | grep -v '^lo$'; ls /run/clusterd-lab 2>/dev/null)"
}

# What comes to a port of a bond goes to the bond.
refused_on_a_bond() {
    ip link add bond9 type bond mode active-backup
    ip link add v9 type veth peer name v8
    ip link set v9 master bond9
    for name in bond9 v9 v8; do ip link set $name up; done
    ip addr add 10.79.0.1/24 dev v9
    status=0
    clusterd v9 10.79.0.2 --no-state 2>/run/refused || status=$?
    cat /run/refused
    test $status = 78
    grep 'v9 is a port of bond9, which gets its frames; use that one: clusterd bond9' /run/refused
    ip link del v9
    ip link del bond9
    rmmod bonding
}

not loaded nfnetlink
refused_on_a_bond
look nft_queue xt_NFQUEUE
nothing_left nft_queue
for guard in rst strict; do
    run clusterd lab run --guard $guard --connections 100 --concurrency 8
    run clusterd lab run --guard $guard --connections 80 --concurrency 8 --claim-loss 100%
    run_and_kill clusterd lab run --guard $guard --connections 100 --concurrency 8 --kill h2@50%
done
say "loaded by themselves: $(cut -d ' ' -f 1 /proc/modules | tr '\n' ' ')"
nothing_left nft_queue

say 'as if nft had no `queue`'
mv /lib/modules/*/kernel/net/netfilter/nft_queue.ko* /tmp
look xt_NFQUEUE nft_queue
run clusterd lab run --guard strict --connections 80 --concurrency 8
nothing_left xt_NFQUEUE
