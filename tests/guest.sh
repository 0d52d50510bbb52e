#!/usr/bin/env bash
# clusterd on the kernel that Debian ships, booted under QEMU. The kernel of the
# machine at hand may have other parts of nftables: with Debian's, held packets come
# by the nft expression `queue`, and everything has to be loaded as a module first.
#
# All is emulated, so this judges what happens and not how fast. Downloads and
# what is made of them stay in target/guest.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin # depmod

program=${1:-target/release/clusterd}
cache=target/guest
root=$cache/root

missing=()
for tool in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio kmod:kmod; do
    command -v "${tool%:*}" >/dev/null || missing+=("${tool#*:}")
done
if ((${#missing[@]})); then
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
fi

# The kernel is only unpacked: installing it would change what this machine boots.
# Its version is looked up, since old ones vanish from the suite.
meta=${GUEST_KERNEL:-linux-image-cloud-amd64}
image=$(apt-cache depends "$meta" | sed -n 's/^ *Depends: \(linux-image-\)/\1/p')
release=${image#linux-image-}
kernel=$cache/$release
modules=lib/modules/$release
if [ ! -e "$kernel" ]; then
    mkdir -p "$cache"
    (cd "$cache" && apt-get download "$image" && dpkg -x "$image"_*.deb unpacked)
    rm "$cache/$image"_*.deb
    mv "$cache/unpacked" "$kernel" # last, so that a half unpacked one is not taken for whole
fi

# Copies programs and, for each, the libraries that ldd names.
add() {
    local file
    for file in "$@"; do
        install -D --target-directory="$root/usr/bin" "$file"
        for file in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*'); do
            install -D "$file" "$root$file"
        done
    done
}

rm -rf "$root"
mkdir -p "$root"/{dev,proc,run,sys,tmp} "$root"/usr/{bin,lib,lib64}
# As on Debian, so that a library is found by either of its names; modprobe must be in /sbin.
ln -s usr/bin usr/lib usr/lib64 "$root" && ln -s usr/bin "$root/sbin"
add "$(command -v busybox)" "$(command -v dash)" "$(command -v ip)" "$(command -v kmod)" \
    "$(command -v nft)" "$program"
strip "$root/usr/bin/clusterd" # the emulated CPU unpacks it all
for applet in cat cut dmesg grep ls mount mv nc ping poweroff rmmod seq sleep tail timeout tr; do
    ln -s busybox "$root/usr/bin/$applet"
done
# Not busybox's shell, which prefers its own `ip`, and that knows no namespaces.
ln -s dash "$root/usr/bin/sh"
ln -s kmod "$root/usr/bin/modprobe"
# All that the network may need; what is loaded is for the kernel and modprobe to find.
mkdir -p "$root/$modules/kernel/"{drivers/net,net}
cp "$kernel/$modules"/modules.{builtin,builtin.modinfo,order} "$root/$modules"
cp "$kernel/$modules"/kernel/drivers/net/veth.ko* "$root/$modules/kernel/drivers/net"
cp -r "$kernel/$modules"/kernel/{crypto,lib} "$root/$modules/kernel"
cp -r "$kernel/$modules"/kernel/net/{802,bridge,ipv4,ipv6,llc,netfilter,sched} "$root/$modules/kernel/net"
depmod -b "$root" "$release"

cat >"$root/init" <<'INIT'
#!/bin/sh
# Process 1 of the guest. What fails ends it before it says PASS.
set -eu
export PATH=/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
exec 2>/run/stderr # `lab run` shows its progress on a terminal
trap 'cat /run/stderr; dmesg | tail -n 20; poweroff -f' EXIT

say() { echo "guest: $*"; }
run() { say "$@"; "$@"; }
# `!` alone would not end the script.
not() { if "$@"; then say "FAIL: $*"; exit 1; fi; }
loaded() { grep "^$1 " /proc/modules; }

all_buckets=$(seq -s , 0 255)

# Raises a lab, sees which of two modules holds the packets, makes one connection.
look() {
    run clusterd lab up --guard strict
    run clusterd lab exec h1 nft list chain inet clusterd_10.77.0.2 contest
    run loaded "$1"
    not loaded "$2"
    echo hello | clusterd lab exec client nc 10.77.0.2 80 | grep '^h'
    # All buckets to h2, and the kernel decides by them.
    for host in h1 h2 h3; do
        clusterd lab exec $host nft add element inet clusterd_10.77.0.2 by_bucket '{ tcp }'
    done
    clusterd lab exec h2 nft add element inet clusterd_10.77.0.2 own_buckets "{ $all_buckets }"
    echo hello | clusterd lab exec client nc 10.77.0.2 80 | grep '^h2'
    run clusterd lab exec client ping -c 1 10.77.0.2
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

say "$(cat /proc/version)"
not loaded nfnetlink
look nft_queue xt_NFQUEUE
nothing_left nft_queue
for guard in rst strict; do
    run clusterd lab run --guard $guard --connections 300 --concurrency 8
    run clusterd lab run --guard $guard --connections 200 --concurrency 8 --claim-loss 100%
    run clusterd lab run --guard $guard --connections 300 --concurrency 8 --kill h2@50%
done
say "loaded by themselves: $(cut -d ' ' -f 1 /proc/modules | tr '\n' ' ')"
nothing_left nft_queue

say 'as if nft had no `queue`'
mv /lib/modules/*/kernel/net/netfilter/nft_queue.ko* /tmp
look xt_NFQUEUE nft_queue
run clusterd lab run --guard strict --connections 200 --concurrency 8
nothing_left xt_NFQUEUE

dmesg >/tmp/dmesg
not grep -E 'WARNING:|BUG:|Oops|Call Trace|hung task' /tmp/dmesg
trap 'poweroff -f' EXIT
say PASS
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1) >"$cache/initramfs"

# tcg: a nested KVM may be there and yet hang this kernel. QEMU ends with 0 after a
# panic, too, so PASS is what counts.
timeout "${GUEST_TIMEOUT:-600}" qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 1024 -machine q35 \
    -no-user-config -nodefaults -display none -nic none -no-reboot -serial stdio \
    -kernel "$kernel/boot/vmlinuz-$release" -initrd "$cache/initramfs" \
    -append "console=ttyS0 quiet panic=-1 oops=panic loglevel=4" </dev/null | tee "$cache/log" ||
    echo "QEMU did not end in time" >&2
grep -q $'^guest: PASS\r*$' "$cache/log"
