#!/usr/bin/env bash
# the server in a small virtual machine whose power is cut: durable acks are all there, written ones but for the tail
#
# The machine is emulated (KVM is not asked for), some hundred times slower than this one: it shows what holds, not how
# fast. Its disk is the worst there is: what it was not told to flush it has forgotten when the power comes back. QEMU is
# killed in the middle of load, so that everything in the machine's memory is gone, too.
# shellcheck source=soak/lib.sh
source "$soak/lib.sh"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/ringest-soak/microvm
rate=${SOAK_RATE:-100}
# Bounded: it is about what is kept, and a machine that runs for longer keeps no more.
sending=$((seconds < 10 ? 10 : seconds > 20 ? 20 : seconds))
patient=(--max-late-share 100%)
qemu=

clean_up() {
  [[ -z $qemu ]] || kill -KILL "$qemu" 2>/dev/null || true
  rm -rf "$here"/{durable,initramfs,initramfs.gz,words,writes.log} "$here"/*.img
}

# fetch: a kernel with its modules and a shell, as Debian has them; once.
fetch() {
  [[ -e $cache/ready ]] && return
  rm -rf "$cache"
  mkdir -p "$cache"
  unpack() {
    local kernel package
    cd "$cache" && kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }') &&
      timeout 300 apt-get download -q "$kernel" busybox-static || return
    for package in *.deb; do
      dpkg-deb -x "$package" . || return
    done
    rm -- *.deb
  }
  (unpack) >"$here/fetch.txt" 2>&1 || cannot "Debian's cloud kernel and busybox could not be fetched: $(tail -1 "$here/fetch.txt")"
  : >"$cache/ready"
}

# initramfs: what the machine runs: the server with what it is linked to, a few modules, and an init.
initramfs() {
  local root=$here/initramfs library module
  mkdir -p "$root"/{bin,proc,sys,dev,data,modules}
  cp "$cache/bin/busybox" "$root/bin/busybox"
  cp "$server" "$root/bin/ringest-server"
  strip "$root/bin/ringest-server" 2>/dev/null || note "there is no strip: the machine has a long way to read"
  # One that is linked statically names none.
  while read -r library; do
    install -D "$library" "$root$library"
  done < <(ldd "$server" 2>/dev/null | grep -oE '/[^ ]+' || true)
  for module in virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk failover net_failover virtio_net; do
    find "$cache" -name "$module.ko" -exec cp {} "$root/modules" \;
  done
  cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
# Each needs some of the others, and takes its place once it has them.
for _ in 1 2 3 4; do
  for module in /modules/*; do insmod "$module" 2>/dev/null; done
done
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
mount -t ext4 /dev/vda /data || echo "init: no disk"
ringest-server --host 10.0.2.15 --log-dir /data/logs --ready-file /ready $(sed 's/.*ringest="\([^"]*\)".*/\1/' /proc/cmdline) &
server=$!
while [ ! -e /ready ] && kill -0 $server; do sleep 0.1; done
[ ! -e /ready ] || echo "init: ready"
read -r _
kill -TERM $server
wait $server
echo "init: server ended with $?"
umount /data
poweroff -f
INIT
  chmod +x "$root/init"
  (cd "$root" && find . | "$root/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1 >"$here/initramfs.gz") || cannot "no initramfs could be made"
  note "the machine's initramfs has $(($(stat -c %s "$here/initramfs.gz") / 1048576)) MiB"
}

# boot DISK ARGUMENT...: the machine on that disk, its server with these arguments; it takes connections afterwards.
boot() {
  local disk=$1 until
  shift
  cp --sparse=always "$disk" "$here/before.img"
  rm -f "$here/writes.log" "$here/words"
  : >"$here/console.txt"
  truncate -s 4G "$here/writes.log"
  mkfifo "$here/words"
  # Open for both, so that neither end waits for the other.
  exec {words}<>"$here/words"
  setsid qemu-system-x86_64 -M pc -accel tcg -cpu max -smp 2 -m 512 -nodefaults -no-reboot -display none -serial stdio \
    -kernel "$(find "$cache/boot" -name 'vmlinuz-*' | head -1)" -initrd "$here/initramfs.gz" \
    -append "console=ttyS0 quiet panic=-1 ringest=\"$*\"" \
    -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$port-:9000" -device virtio-net-pci,netdev=net,romfile= \
    -blockdev "driver=file,filename=$disk,node-name=disk" -blockdev "driver=file,filename=$here/writes.log,node-name=log" \
    -blockdev driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size=512,log-super-update-interval=1 -device virtio-blk-pci,drive=logged,write-cache=on \
    <&"$words" >>"$here/console.txt" 2>&1 &
  qemu=$!
  until=$((SECONDS + 90))
  while ! grep -q 'init: ready' "$here/console.txt"; do
    kill -0 "$qemu" 2>/dev/null || cannot "QEMU does not run: $(tail -1 "$here/console.txt")"
    [[ $SECONDS -lt $until ]] || fail "the machine is not ready after 90 s: $(tail -2 "$here/console.txt" | tr '\n' ' ')"
    sleep 0.2
  done
}

# cut_power DISK NAME: in the middle of whatever it does.
cut_power() {
  kill -KILL "$qemu"
  wait "$qemu" 2>/dev/null || true
  qemu=
  exec {words}<&-
  python3 "$soak/lib/power_cut.py" "$here/writes.log" "$here/before.img" >"$here/cut-$2.json" || fail "the log of writes cannot be read"
  mv "$here/before.img" "$1"
  cp "$here/console.txt" "$here/console-$2-cut.txt"
  note "$2: when the power was cut the disk had taken $(look "$here/cut-$2.json" /writes) writes and $(look "$here/cut-$2.json" /flushes) flushes," \
    "and forgot $(look "$here/cut-$2.json" /forgotten) writes"
  claim "$2: flushes that the disk was asked for before the power was cut" "$(look "$here/cut-$2.json" /flushes)" at_least 10
}

# shut_down DISK NAME: in order; what it has stored is then in $here/NAME.
shut_down() {
  local until=$((SECONDS + 60))
  echo end >&"$words"
  while kill -0 "$qemu" 2>/dev/null; do
    [[ $SECONDS -lt $until ]] || fail "the machine does not end: $(tail -2 "$here/console.txt" | tr '\n' ' ')"
    sleep 0.2
  done
  wait "$qemu" 2>/dev/null || true
  qemu=
  exec {words}<&-
  cp "$here/console.txt" "$here/console-$2.txt"
  claim "$2: exit code of the server that came after the power cut" \
    "$(sed -n 's/.*init: server ended with \([0-9]*\).*/\1/p' "$here/console.txt")" at_most 0
  mkdir -p "$here/$2"
  debugfs -R "rdump /logs $here/$2" "$1" >"$here/debugfs.txt" 2>&1
  verified "$2" "$here/$2/logs"
}

# verified NAME DIR: every checksum of what is left there holds.
verified() {
  local findings=0
  "$server" verify "$2" >"$here/verify-$1.txt" 2>&1 || findings=$(wc -l <"$here/verify-$1.txt")
  claim "$1: findings of verify in what is on the disk" "$findings" at_most 0
}

new_disk() {
  rm -f "$1"
  truncate -s 512M "$1"
  mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$1" || cannot "no file system could be made"
}

free_port() {
  for ((port = 20000 + RANDOM % 10000; ; port++)); do
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || return 0
  done
}

needs qemu-system-x86_64 apt-get dpkg-deb mkfs.ext4 e2fsck debugfs python3 gzip
fetch
initramfs
free_port
addr[vm]=127.0.0.1:$port
settings=(--shards 2 --segment-mib 34 --admin-addr none)

# Sessions that go on in the next life of the machine: of what was acknowledged as durable, in both, nothing is missing.
new_disk "$here/durable.img"
boot "$here/durable.img" "${settings[@]}"
# shellcheck disable=SC2046
load durable vm $(ledger durable) --mode session -c 6 -R "$rate" -d "$((sending + 10))s" -n 0 --reconnect-for 150s --drain 60s "${patient[@]}"
sleep "$((sending / 2))"
cut_power "$here/durable.img" durable
boot "$here/durable.img" "${settings[@]}"
loaded durable
claim "durable: connections that came back" "$(($(look "$here/loads/durable/generator.json" /tests/0/results/connects) - 6))" at_least 6
shut_down "$here/durable.img" durable
"$server" cat "$here/durable/logs" | "$loadgen" reconcile --ledger "$here/loads/durable/ledger" --json "$here/reconciled/durable.json" || true

# What was acknowledged as written may be missing, at the end of each session: nobody comes back to send it again. A few
# durable ones beside them make the disk keep a part.
new_disk "$here/written.img"
boot "$here/written.img" "${settings[@]}"
once=(--mode session -d "$((sending + 20))s" -n 0 --reconnect-for 1s --drain 1s "${patient[@]}")
# shellcheck disable=SC2046
may_fail=yes load written vm $(ledger written) --ack written -c 6 -R "$rate" "${once[@]}"
# shellcheck disable=SC2046
may_fail=yes load beside vm $(ledger beside) --ack durable -c 6 -R 6 "${once[@]}"
sleep "$((sending / 2))"
cut_power "$here/written.img" written
loaded written beside
# A server of this machine finds what is left; the file system is mended first, as a boot would.
e2fsck -fy "$here/written.img" >"$here/e2fsck.txt" 2>&1 || true
mkdir -p "$here/servers/written"
debugfs -R "rdump /logs $here/servers/written" "$here/written.img" >"$here/debugfs.txt" 2>&1
serve written 1
sleep 3
end_server written
verified written "$here/servers/written/logs"
reconcile beside written beside
"$server" cat "$here/servers/written/logs" | python3 "$soak/lib/tail.py" "$here/loads/written/ledger" >"$here/tail.json" || fail "what is stored cannot be read"
claim "written: lines acknowledged before the power was cut" "$(look "$here/tail.json" /acked)" at_least "$rate"
claim "written: lines missing that are followed by others of their session" "$(look "$here/tail.json" /missing_within)" at_most 0
claim "written: lines stored" "$(look "$here/tail.json" /stored)" at_least 1
note "written: $(look "$here/tail.json" /missing) of $(look "$here/tail.json" /acked) acknowledged lines are missing, all at the end"
forget_segments
