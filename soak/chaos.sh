#!/usr/bin/env bash
# harms of every kind, one after the other: good clients stay within 80 ms, promises hold, and each harm has acted
#
# Whoever means harm has a network namespace, and so an address, of his own. Disks that are full or slow, a shard without
# processor time and a server that is killed have servers of their own: what they do to good clients is promised otherwise.
# shellcheck source=soak/lib.sh
source "$soak/lib.sh"

rate=${SOAK_RATE:-300}
phase=$((seconds / 10 < 5 ? 5 : seconds / 10 > 60 ? 60 : seconds / 10))
# What is late by the generator's or the machine's fault is weighed where a p95 does not hold.
patient=(--max-late-share 100%)
# Interfaces have 15 letters, and others may run the same.
tag=rgc$$
cgroups=(/sys/fs/cgroup/blkio/"$tag" /sys/fs/cgroup/cpu/"$tag")
harm=()
good_loads=()

clean_up() {
  local one
  for one in "${harm[@]}"; do
    kill "$one" 2>/dev/null && wait "$one" 2>/dev/null
  done
  ip netns del "$tag" 2>/dev/null || true
  ip link del "$tag" 2>/dev/null || true
  umount -l "$here"/servers/{full,failing,slow}/logs "$here/thin" 2>/dev/null || true
  for one in "${cgroups[@]}"; do
    [[ ! -d $one ]] || rmdir "$one" 2>/dev/null || true
  done
  rm -f "$here"/*.img
}

# good NAME SERVER: good clients for a phase, sessions and plain ones, from now on.
good() {
  # shellcheck disable=SC2046
  slo_p95_ms=${slo:-80} load "$1" "$2" $(ledger "$1") --plain-share 40% -c 15 -R "$rate" -d "$((phase + 2))s" -n 0 "${patient[@]}"
  good_loads+=("$1")
  # They are connected before harm comes.
  sleep 1
}

# harm NAME COUNT: from the address of whoever means it, for the phase; what came of it is in a file.
harm() {
  ip netns exec "$tag" python3 "$soak/lib/hostile.py" "$1" "${addr[main]}" "$phase" "$2" >"$here/harm-$1.json" 2>"$here/harm-$1.txt" &
  harm+=($!)
}

# harmed: waits until all harm is done.
harmed() {
  wait "${harm[@]}" || true
  harm=()
}

# did NAME WHAT: so often that harm was done.
did() {
  look "$here/harm-$1.json" "/$2"
}

report() {
  look "$here/loads/$1/generator.json" "/tests/0/results/$2"
}

lab() {
  local net
  # Set aside for measurements (RFC 2544).
  for ((net = 0; net < 256; net++)); do
    subnet=198.18.$((($$ + net) % 256))
    [[ -n $(ip -4 route show root "$subnet.0/24") ]] || break
  done
  {
    ip netns add "$tag" && ip link add "$tag" type veth peer name eth0 netns "$tag" && ip addr add "$subnet.1/24" dev "$tag" &&
      ip link set "$tag" up && in_lab ip addr add "$subnet.2/24" dev eth0 && in_lab ip link set eth0 up
  } 2>"$here/lab.txt" || cannot "no network namespace can be made: $(tail -1 "$here/lab.txt")"
}

in_lab() {
  ip netns exec "$tag" "$@"
}

latency() {
  local proxy
  good latency-good main
  python3 "$soak/lib/hostile.py" delay "${addr[main]}" 100 >"$here/proxy.txt" 2>"$here/harm-delay.txt" &
  proxy=$!
  harm+=("$proxy")
  until [[ -s $here/proxy.txt ]]; do sleep 0.05; done
  addr[far]=127.0.0.1:$(<"$here/proxy.txt")
  slo=1000 good latency-far far
  loaded latency-good latency-far
  kill "$proxy"
  harmed
  claim "latency: us that half of the answers took over a wire of 2 x 100 ms" "$(report latency-far response_us/p50)" at_least 200000
}

loris() {
  good loris-good main
  harm loris 50
  harm deaf 5
  # Slow, and nothing worse: they are served.
  # shellcheck disable=SC2046
  netns=$tag load loris-slow main $(ledger loris-slow) --mode session -c 20 -R 20 -d "${phase}s" -n 0 --slow-writers 50% --slow-readers 50% "${patient[@]}"
  good_loads+=(loris-slow)
  loaded loris-good loris-slow
  harmed
  claim "loris: connections that never ended a line, made" "$(did loris made)" at_least 50
  claim "loris: of these and of those that never read, ended as slow clients" \
    "$(metric main ringest_connections_ended_total '"slow_client"')" at_least 55
  claim "loris: pings that were sent without reading, MB" "$(($(did deaf bytes) / 1000000))" at_least 1
  claim "loris: lines of slow clients that were taken" "$(report loris-slow acked)" at_least $((10 * phase))
}

bombs() {
  good bombs-good main
  harm bomb 2
  harm garble 2
  may_fail=yes netns=$tag load bombs-garbage main --mode plain -c 4 -R 400 -d "${phase}s" -n 0 --bad-share 100% "${patient[@]}"
  loaded bombs-good bombs-garbage
  harmed
  claim "bombs: thrown" "$(did bomb made)" at_least 10
  claim "bombs: refused in words" "$(did bomb gzip_ratio)" at_least 10
  claim "bombs: refused, as the server says" "$(metric main ringest_lines_rejected_total '"gzip_ratio"')" at_least 10
  claim "bombs: wrong checksums that were refused in words" "$(did garble gzip_corrupt)" at_least 10
  claim "bombs: times that a breaker of lines opened" "$(metric main ringest_line_breaker_openings_total)" at_least 4
}

storm() {
  local before
  before=$(status main '/shards/*/connections_accepted')
  good storm-good main
  harm storm 300
  sleep $((phase / 2))
  # Those that wait in the kernel are not the server's yet.
  claim "storm: connections while it rages" "$(status main '/shards/*/connections')" at_most $((per_address + 20))
  loaded storm-good
  harmed
  claim "storm: connections tried" "$(did storm made)" at_least $((per_address * 2))
  claim "storm: refused in words" "$(did storm refused)" at_least "$per_address"
  claim "storm: refused for their address" "$(metric main ringest_connections_refused_total address)" at_least "$per_address"
  claim "storm: connections taken per second" "$((($(status main '/shards/*/connections_accepted') - before) / (phase + 2)))" at_most $((2 * accept_rate))
}

resets() {
  local before
  before=$(status main '/shards/*/connections_accepted')
  good resets-good main
  harm reset 8
  loaded resets-good
  harmed
  claim "resets: made" "$(did reset reset)" at_least $((20 * phase))
  claim "resets: connections taken meanwhile" "$(($(status main '/shards/*/connections_accepted') - before))" at_least $((20 * phase))
  # OutRsts.
  claim "resets: segments with RST that the other kernel has sent" "$(in_lab cat /proc/net/snmp | awk '$1 == "Tcp:" { count = $15 } END { print count }')" at_least $((20 * phase))
}

half_open() {
  local dead=0 try
  good gone-good main
  harm gone 70
  for ((try = 0; try < 100 && dead < 70; try++)); do
    sleep 0.1
    dead=$(in_lab cat /proc/net/tcp | awk '$4 == "01"' | wc -l)
  done
  # From here on nothing reaches anybody, and nobody is told.
  in_lab ip link set eth0 down
  loaded gone-good
  harmed
  sleep 6
  claim "half-open: connections when the wire was cut" "$dead" at_least 20
  claim "half-open: connections left" "$(status main '/shards/*/connections')" at_most 0
  in_lab ip link set eth0 up
}

# Sessions that go on where they were, over two deaths.
killed() {
  local port=${addr[reborn]##*:}
  # shellcheck disable=SC2046
  load killed-sessions reborn $(ledger killed-sessions) --mode session -c 10 -R "$rate" -d "$((2 * phase))s" -n 0 --reconnect-for 30s "${patient[@]}"
  # A plain line on its way at that moment has failed: that is what plain mode says.
  # shellcheck disable=SC2046
  load killed-plain reborn $(ledger killed-plain) --mode plain -c 5 -R 50 -d "$((2 * phase))s" -n 0 --reconnect-for 30s --max-error-rate 20% "${patient[@]}"
  for _ in 1 2; do
    sleep $((phase / 2 + 1))
    kill_server reborn KILL "signal: 9 (SIGKILL)"
    serve reborn 30 "${reborn[@]}" --port "$port"
  done
  loaded killed-sessions killed-plain
  sleep 3
  claim "kill -9: connections that came back" "$(($(report killed-sessions connects) - 10))" at_least 20
  claim "kill -9: lines of sessions that failed" "$(report killed-sessions failed)" at_most 0
  note "kill -9, twice: $(report killed-sessions resent) lines were sent again, $(report killed-sessions duplicate) were there already"
  end_server reborn
  reconcile reborn reborn killed-sessions killed-plain
}

full() {
  local dir=$here/servers/full/logs ballast=$here/servers/full/logs/ballast refused stored
  disk full $((200 + 20 * phase))
  # Room for a segment, and for no other.
  fallocate -l "$(($(df -BM --output=avail "$dir" | tail -1 | tr -dc 0-9) - 50))M" "$ballast"
  serve full 20 --shards 1 --segment-mib 34
  # shellcheck disable=SC2046
  load full-sessions full $(ledger full-sessions) --mode session -c 5 -R 750 -d "$((3 * phase))s" -n 0 --record-size 8000 "${patient[@]}"
  # shellcheck disable=SC2046
  load full-plain full $(ledger full-plain) --mode plain -c 2 -R 50 -d "$((3 * phase))s" -n 0 --max-error-rate 100% "${patient[@]}"
  for ((try = 0; try < 30 * phase; try++)); do
    [[ $(metric full ringest_storage_refuses) -eq 0 ]] || break
    sleep 0.1
  done
  sleep 1
  refused=$(metric full ringest_lines_rejected_total '"storage_full"') stored=$(status full '/shards/*/stored')
  claim "full: it says that storage takes nothing" "$(metric full ringest_storage_refuses)" at_least 1
  claim "full: bytes left on the disk, less a segment's" "$(($(df -B1 --output=avail "$dir" | tail -1) - 34 * 1024 * 1024))" at_most 0
  claim "full: lines refused as storage_full" "$refused" at_least 10
  rm "$ballast"
  loaded full-sessions full-plain
  sleep 3
  claim "full: it takes lines again" "$(metric full ringest_storage_refuses)" at_most 0
  claim "full: lines stored once there was room" "$(($(status full '/shards/*/stored') - stored))" at_least 100
  claim "full: lines of sessions that failed" "$(report full-sessions failed)" at_most 0
  end_server full
  reconcile full full full-sessions full-plain
  umount "$dir"
}

# A disk that is thinner than it says: what is written and synced fails, until there is more behind it.
failing() {
  local dir=$here/servers/failing/logs thin=$here/thin opened try
  mkdir -p "$dir" "$thin"
  {
    # Without a journal the file system stays writable, and each sync says for itself whether it failed.
    mount -t tmpfs -o size=40m none "$thin" && truncate -s 1G "$thin/img" && mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=0 "$thin/img" &&
      mount -o loop,errors=continue "$thin/img" "$dir"
  } 2>"$here/disk.txt" || cannot "no file system can be mounted: $(tail -1 "$here/disk.txt")"
  serve failing 20 --shards 1 --segment-mib 34
  # shellcheck disable=SC2046
  load failing-sessions failing $(ledger failing-sessions) --mode session -c 5 -R 750 -d "$((3 * phase))s" -n 0 --record-size 8000 "${patient[@]}"
  for ((try = 0; try < 30 * phase; try++)); do
    opened=$(metric failing ringest_storage_breaker_openings_total)
    [[ ${opened:-0} -eq 0 ]] || break
    sleep 0.1
  done
  # Whoever is refused waits before he comes back.
  for ((try = 0; try < 30 * phase; try++)); do
    [[ $(metric failing ringest_lines_rejected_total '"storage_error"') -lt 10 ]] || break
    sleep 0.1
  done
  claim "failing: writes and syncs that failed" "$(metric failing ringest_storage_failures_total)" at_least 2
  claim "failing: times that the breaker of storage opened" "$opened" at_least 1
  claim "failing: lines refused as storage_error" "$(metric failing ringest_lines_rejected_total '"storage_error"')" at_least 10
  mount -o "remount,size=$((100 + 30 * phase))m" "$thin"
  loaded failing-sessions
  sleep 3
  claim "failing: it takes lines again" "$(metric failing ringest_storage_refuses)" at_most 0
  claim "failing: lines of sessions that failed" "$(report failing-sessions failed)" at_most 0
  end_server failing
  reconcile failing failing failing-sessions
  umount "$dir" "$thin"
}

slow() {
  local dir=$here/servers/slow/logs group=${cgroups[0]} device began written
  if ! mkdir "$group" 2>/dev/null || [[ ! -e $group/blkio.throttle.write_bps_device ]]; then
    note "slow disk: there is no blkio.throttle (cgroup v1) here, so no disk was slowed down"
    return
  fi
  disk slow $((200 + 20 * phase))
  device=$(stat -c '%Hd:%Ld' "$dir")
  serve slow 40 --shards 1 --segment-mib 34
  echo "$device 8000000" >"$group/blkio.throttle.write_bps_device"
  echo "${pid[slow]}" >"$group/cgroup.procs"
  began=$SECONDS
  # shellcheck disable=SC2046
  load slow-good slow $(ledger slow-good) --mode session -c 5 -R 50 -d "$((2 * phase))s" -n 0 "${patient[@]}"
  # shellcheck disable=SC2046
  load slow-greedy slow $(ledger slow-greedy) --mode session -c 5 --closed --pipeline 2000 -d "$((2 * phase))s" -n 0 --record-size 2000 \
    --drain 30s --reconnect-for 60s "${patient[@]}"
  loaded slow-good slow-greedy
  written=$(awk -v d="$device" '$1 == d && $2 == "Write" { print $3 }' "$group/blkio.throttle.io_service_bytes")
  claim "slow disk: bytes that it took per second" "$((written / (SECONDS - began)))" at_most 10000000
  claim "slow disk: bytes that it took" "$written" at_least $((phase * 8000000))
  sleep 3
  claim "slow disk: sessions that were told to take their share or to come back" \
    "$(($(metric slow ringest_connections_shed_over_share_total) + $(metric slow ringest_connections_shed_overdue_total)))" at_least 1
  claim "slow disk: us that 95 % of the answers of a client that sends little took" "$(report slow-good response_us/p95)" at_most 2000000
  claim "slow disk: lines that failed of a client that sends little" "$(report slow-good failed)" at_most 0
  note "slow disk: p95 $(report slow-good response_us/p95) us where little is sent, $(report slow-greedy service_us/p95) us where all is sent that fits"
  end_server slow
  reconcile slow slow slow-good slow-greedy
  umount "$dir"
}

# One shard has 1 ms of each 100; who is at home in the other one must not notice.
starved() {
  local group=${cgroups[1]} tid home run
  if ! mkdir "$group" 2>/dev/null || [[ ! -e $group/cpu.cfs_quota_us ]]; then
    note "starved shard: there is no cpu.cfs_quota_us (cgroup v1) here, so none was starved"
    return
  fi
  serve starved 20 --shards 2 --no-pin
  : >"$here/servers/starved/may-be-mute"
  # A producer's home is a hash of its name, and its name is that of the run: two runs are looked for that live apart.
  declare -A lives=()
  for ((run = 1; run <= 64 && ${#lives[@]} < 2; run++)); do
    before=$(status starved /shards/0/stored)
    "$loadgen" --host 127.0.0.1 --port "${addr[starved]##*:}" --quiet --mode session -c 1 -n 1 --run-id "$(printf '%08x' "$run")" >>"$here/homes.txt" 2>&1
    home=$(($(status starved /shards/0/stored) > before ? 0 : 1))
    [[ -n ${lives[$home]:-} ]] || lives[$home]=$(printf '%08x' "$run")
  done
  # A second session of that name goes on where the first ended, and its numbers with it.
  # shellcheck disable=SC2046
  load starved-poor starved $(ledger starved-poor) --mode session -c 1 -R 1000 -d "$((phase + 2))s" -n 0 --run-id "${lives[0]}" --drain 60s "${patient[@]}"
  # shellcheck disable=SC2046
  slo_p95_ms=80 load starved-good starved $(ledger starved-good) --mode session -c 1 -R 200 -d "$((phase + 2))s" -n 0 --run-id "${lives[1]}" "${patient[@]}"
  sleep 1
  for tid in /proc/"${pid[starved]}"/task/*; do
    [[ $(<"$tid/comm") != shard-00 ]] || echo "${tid##*/}" >"$group/tasks"
  done
  echo 1000 >"$group/cpu.cfs_quota_us"
  loaded starved-good
  echo -1 >"$group/cpu.cfs_quota_us"
  loaded starved-poor
  sleep 3
  claim "starved: times that the shard was kept from the processor" "$(awk '$1 == "nr_throttled" { print $2 }' "$group/cpu.stat")" at_least "$phase"
  claim "starved: us that 95 % of its own clients' answers took" "$(report starved-poor response_us/p95)" at_least 40000
  end_server starved
  reconcile starved starved starved-poor starved-good
}

needs_root "namespaces, mounts and cgroups are made"
needs ip python3 mkfs.ext4 fallocate mount awk
lab
per_address=100 accept_rate=500
serve main 400 --host "$subnet.1" --max-connections-per-address "$per_address" --accept-rate "$accept_rate" --circuit-breaker true --segment-mib 64 \
  --greeting-timeout 2s --line-timeout 3s --idle-timeout 4s --send-timeout 2s
latency
loris
bombs
storm
resets
half_open
sleep 3
end_server main
reconcile main main "${good_loads[@]}"
reborn=(--segment-mib 64)
serve reborn 30 "${reborn[@]}"
killed
full
failing
slow
starved
forget_segments
