#!/usr/bin/env bash
# kill -9 again and again, half of the times in the middle of an end, on a disk that is behind with what it was given
#
# What a process has asked the kernel to write is written when it is dead already, or in another order; its successor has
# read the segments by then. On uring, and on glommio; epoll writes in order. All is slowed down but recovery.
# shellcheck source=soak/lib.sh
source "$soak/lib.sh"

group=/sys/fs/cgroup/blkio/rgk$$

clean_up() {
  umount -l "$here"/servers/*/logs 2>/dev/null || true
  [[ ! -d $group ]] || rmdir "$group" 2>/dev/null || true
  rm -f "$here"/*.img
}

# lives BACKEND SECONDS: a server that dies every second, under sessions that send what they can.
lives() {
  local name=$1 until port device written made=0 code ends=
  local args=(--backend "$1" --shards 2 --no-pin --segment-mib 34)
  # Slower than loopback by far, and a segment is full every ten seconds.
  disk "$name" 4000
  device=$(stat -c '%Hd:%Ld' "$here/servers/$name/logs")
  echo "$device 4000000" >"$group/blkio.throttle.write_bps_device"
  serve "$name" 20 "${args[@]}"
  echo "${pid[$name]}" >"$group/cgroup.procs"
  port=${addr[$name]##*:}
  # shellcheck disable=SC2046
  load "$name" "$name" $(ledger "$name") --mode session -c 6 --closed --pipeline 500 --record-size 1000 -d "$2s" -n 0 \
    --drain 60s --reconnect-for 60s --max-late-share 100%
  sleep 1
  for ((until = SECONDS + $2; SECONDS < until - 1; made++)); do
    sleep "0.$((RANDOM % 9))"
    if ((made % 2)); then
      # It may have ended in order before it is killed.
      ends=$'signal: 9 (SIGKILL)\nexit status: 0'
      will_end "$name" "$ends"
      kill -TERM "${pid[$name]}"
      sleep "0.0$((RANDOM % 6))"
    fi
    kill_server "$name" KILL "${ends:-signal: 9 (SIGKILL)}"
    ends=
    serve "$name" 20 "${args[@]}" --port "$port"
    echo "${pid[$name]}" >"$group/cgroup.procs"
  done
  echo "$device 0" >"$group/blkio.throttle.write_bps_device"
  loaded "$name"
  written=$(awk -v d="$device" '$1 == d && $2 == "Write" { print $3 }' "$group/blkio.throttle.io_service_bytes")
  claim "$name: times that it was killed" "$made" at_least $(($2 / 4))
  claim "$name: bytes that the slow disk took" "$written" at_least $((100000 * $2))
  claim "$name: lines that were sent again" "$(look "$here/loads/$name/generator.json" /tests/0/results/resent)" at_least 1
  end_server "$name"
  reconcile "$name" "$name" "$name"
  code=0
  "$server" verify "$here/servers/$name/logs" >"$here/verify-$name.txt" 2>&1 || code=$?
  claim "$name: what verify ends with" "$code" at_most 0
  umount "$here/servers/$name/logs"
}

needs_root "it mounts a disk and slows it down"
if ! mkdir "$group" 2>/dev/null || [[ ! -e $group/blkio.throttle.write_bps_device ]]; then
  cannot "there is no blkio.throttle (cgroup v1), so no disk can be slowed down"
fi
for backend in uring glommio; do
  lives "$backend" $((seconds / 2 < 10 ? 10 : seconds / 2))
done
forget_segments
