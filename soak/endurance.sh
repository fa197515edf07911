#!/usr/bin/env bash
# uring and epoll under mixed load with connections that come and go: nothing may grow, and nothing may be lost
#
# Two servers at once, one on each backend, so that an hour of one is an hour of the other. Each has sessions that stay,
# plain clients that answer for every line, and a crowd whose connections end every 100 ms.
# shellcheck source=soak/lib.sh
source "$soak/lib.sh"

rate=${SOAK_RATE:-1000}
crowd=${SOAK_CROWD:-100}
every=2
[[ $seconds -gt 300 ]] || every=1
# Latencies are no finding here: what is measured is whether anything grows while two servers share two processors.
patient=(--max-late-share 100% --max-error-rate 0.1%)
backends=(uring epoll)
# One of the crowd is there twice while its last connection is being closed.
for backend in "${backends[@]}"; do
  serve "$backend" $((2 * crowd + 60)) --backend "$backend" --shards 1 --no-pin --segment-mib 64
done
for backend in "${backends[@]}"; do
  # shellcheck disable=SC2046
  load "$backend-sessions" "$backend" $(ledger "$backend-sessions") --mode session -c 20 -R "$rate" -d "${seconds}s" -n 0 "${patient[@]}"
  # shellcheck disable=SC2046
  load "$backend-plain" "$backend" $(ledger "$backend-plain") --mode plain -c 20 -R $((rate / 2)) -d "${seconds}s" -n 0 --corpus-shape mixed "${patient[@]}"
  # shellcheck disable=SC2046
  load "$backend-crowd" "$backend" $(ledger "$backend-crowd") --mode session -c "$crowd" -R $((rate / 2)) -d "${seconds}s" -n 0 \
    --reconnect-every 100ms "${patient[@]}"
done
for backend in "${backends[@]}"; do
  loaded "$backend-sessions" "$backend-plain" "$backend-crowd"
done
# Two looks at rest.
sleep $((2 * every + 1))
for backend in "${backends[@]}"; do
  # A connection ends in the middle of a batch, and takes longer to come back where the processors are busy.
  claim "$backend: connections taken" "$(status "$backend" '/shards/*/connections_accepted')" at_least $((crowd * seconds))
  end_server "$backend"
  reconcile "$backend" "$backend" "$backend-sessions" "$backend-plain" "$backend-crowd"
done
forget_segments
