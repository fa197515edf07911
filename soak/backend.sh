#!/usr/bin/env bash
# uring, glommio and epoll, everything else the same: from depth 1 to bulk and to many that are mostly idle
#
# Pairs of runs, interleaved, at four kinds of load, so that it is seen where one overtakes the other; then what each asks of
# the kernel per record. It says as readily that io_uring does not win.
# shellcheck source=soak/lib.sh
source "$soak/lib.sh"

others=(epoll)
"$server" --backend glommio --print-config >/dev/null 2>&1 && others+=(glommio)
declare -A kinds=(
  [depth-1]="-c 1 -p 1"
  [pipelined]="-c 20 -p 16"
  [bulk]="-c 50 -p 1000"
  [mostly-idle]="-c 2000 -R 2000 --sessions"
)
timing $((${#others[@]} * ${#kinds[@]}))
for other in "${others[@]}"; do
  for kind in depth-1 pipelined bulk mostly-idle; do
    read -ra flags <<<"${kinds[$kind]}"
    compared "$kind-uring-over-$other" "backend=$other" backend=uring "${timed[@]}" "${flags[@]}"
  done
done

# One server after another under the same rate, counted by the kernel.
for backend in uring "${others[@]}"; do
  serve "$backend" 50 --backend "$backend" --shards 1
  load "$backend" "$backend" --mode session -c 40 -R 10000 -d 8s -n 0 --max-late-share 100%
  sleep 2
  calls "$backend" 4
  loaded "$backend"
  end_server "$backend"
done
forget_segments
