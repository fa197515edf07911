# What scenarios are written with: servers under watch, generators, what was stored against what was promised, claims.
#
# A scenario is a script that soak/run starts with $here (the directory of what it leaves), $seconds (how long it is to
# take), and $server, $loadgen, $bench (the programs). Nothing here decides: ringest-bench soak judge does.
# shellcheck shell=bash
set -euo pipefail

declare -A watcher=() load_pid=() addr=() admin=() pid=()
mkdir -p "$here"/{servers,loads,reconciled,compared}
trap 'end_all; exit 143' TERM INT
trap end_all EXIT

fail() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# The machine or the user cannot: that is no finding about the server.
cannot() {
  echo "$*" >"$here/cannot"
  exit 77
}

needs_root() {
  [[ $(id -u) -eq 0 ]] || cannot "needs root: $*"
}

needs() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || cannot "needs the program $program"
  done
}

# serve NAME CONNECTIONS [ARGUMENT...]: starts a server under watch; $every and $server may be set for it. CONNECTIONS is
# how many it will have at most. Afterwards addr[NAME], admin[NAME] and pid[NAME] are known.
serve() {
  local name=$1 connections=$2 dir=$here/servers/$1 until
  shift 2
  mkdir -p "$dir"
  rm -f "$dir"/{ready,expected}
  # A session of its own: Ctrl-C reaches the script alone, which ends things in order.
  setsid "$bench" soak watch --dir "$dir" --connections "$connections" --every "${every:-1}" ${heartbeat:+--heartbeat "$heartbeat"} \
    "$server" -- "$@" 2>>"$dir/watch.log" >/dev/null &
  watcher[$name]=$!
  until=$((SECONDS + 30))
  while [[ ! -s $dir/ready ]]; do
    kill -0 "${watcher[$name]}" 2>/dev/null || fail "$name did not start: $(tail -3 "$dir/watch.log" | tr '\n' ' ')"
    [[ $SECONDS -lt $until ]] || fail "$name is not ready after 30 s"
    sleep 0.05
  done
  local words
  read -ra words <"$dir/ready"
  addr[$name]=${words[0]} pid[$name]=${words[1]} admin[$name]=
  [[ ${words[2]:-} == admin=* ]] && admin[$name]=http://${words[2]#admin=}
  return 0
}

# end_server NAME: asks it to end, and waits until it has. How it ended is judged.
end_server() {
  kill -TERM "${watcher[$1]}" 2>/dev/null || true
  wait "${watcher[$1]}" || true
  unset "watcher[$1]"
}

# will_end NAME "WAIT STATUS": its next end is meant, and looks like that; or like one of several, a line each.
will_end() {
  echo "$2" >"$here/servers/$1/expected"
}

# kill_server NAME SIGNAL "WAIT STATUS": ends it by that signal, which is meant: kill_server main KILL "signal: 9 (SIGKILL)".
kill_server() {
  will_end "$1" "$3"
  kill -s "$2" "${pid[$1]}" 2>/dev/null || true
  wait "${watcher[$1]}" || true
  unset "watcher[$1]"
}

# load NAME SERVER [ARGUMENT...]: a generator in the background. $slo_p95_ms holds it to that; may_fail=yes expects nothing.
load() {
  local name=$1 to=$2 dir=$here/loads/$1
  shift 2
  mkdir -p "$dir"
  [[ -z ${slo_p95_ms:-} ]] || echo "$slo_p95_ms" >"$dir/slo-p95-ms"
  [[ -z ${may_fail:-} ]] || : >"$dir/may-fail"
  (
    set +e
    trap '' INT
    env -i PATH="$PATH" ${netns:+ip netns exec "$netns"} "$loadgen" --host "${addr[$to]%:*}" --port "${addr[$to]##*:}" --quiet --json "$dir/generator.json" \
      --series "$dir/series.ndjson" "$@" >"$dir/said.txt" 2>&1 &
    generator=$!
    trap 'kill -TERM $generator' TERM
    wait $generator
    code=$?
    # A trap ends the first wait.
    while kill -0 $generator 2>/dev/null; do
      wait $generator
      code=$?
    done
    echo $code >"$dir/code"
  ) &
  load_pid[$name]=$!
}

# loaded NAME...: waits until those generators have ended.
loaded() {
  local name
  for name in "$@"; do
    wait "${load_pid[$name]}" || true
    unset "load_pid[$name]"
  done
}

# ledger NAME: the flag that lets that load write down what it is promised.
ledger() {
  mkdir -p "$here/loads/$1"
  echo "--ledger=$here/loads/$1/ledger"
}

# reconcile NAME SERVER LOAD...: what the server has stored against what these loads were promised.
reconcile() {
  local name=$1 logs=$here/servers/$2/logs ledgers=() load
  shift 2
  for load in "$@"; do
    [[ -e $here/loads/$load/ledger ]] || fail "the load $load has left no ledger"
    ledgers+=(--ledger "$here/loads/$load/ledger")
  done
  # Its code says that lines are missing, which is for the judge.
  "$server" cat "$logs" | "$loadgen" reconcile "${ledgers[@]}" --json "$here/reconciled/$name.json" || true
  [[ -s $here/reconciled/$name.json ]] || fail "what $1 has stored could not be compared with what was promised"
}

# claim WHAT FIGURE at_least|at_most LIMIT: what was counted here, and what it has to be. A figure that is none fails.
claim() {
  local figure=null
  [[ $2 =~ ^-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?$ ]] && figure=$2
  printf '{"what":"%s","actual":%s,"%s":%s}\n' "${1//\"/\'}" "$figure" "$3" "$4" >>"$here/claims.ndjson"
}

# look SOURCE POINTER: a figure out of a file or an admin address; nothing where there is none.
look() {
  "$bench" soak look "$1" "$2" 2>/dev/null || true
}

# status SERVER POINTER: a figure that a server says of itself.
status() {
  look "${admin[$1]}/status.json" "$2"
}

# metric SERVER NAME [LABEL]: what its metrics of that name, with that in their labels, come to together; nothing where there is none.
metric() {
  local at=${admin[$1]#http://} answer
  exec {answer}<>"/dev/tcp/${at%:*}/${at##*:}"
  printf 'GET /metrics HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$at" >&"$answer"
  awk -v name="$2" -v label="${3:-}" 'index($1, name) == 1 && $1 ~ "^[a-z_]*({|$)" && index($1, label) {
    split($1, parts, "{"); if (parts[1] == name) { sum += $2; found = 1 } } END { if (found) printf "%d\n", sum }' <&"$answer"
  exec {answer}<&-
}

# compared NAME [ARGUMENT...]: a comparison of two arms; the loads are its own.
compared() {
  local name=$1 code=0
  shift
  "$bench" compare "$@" --server "$server" --loadgen "$loadgen" --dir "$here" --json "$here/compared/$name.json" \
    >"$here/compared-$name.txt" 2>&1 || code=$?
  [[ $code -eq 0 || $code -eq 130 || $code -eq 143 ]] || fail "comparing $name: $(tail -2 "$here/compared-$name.txt" | tr '\n' ' ')"
}

# timing COMPARISONS: the time there is, divided among so many of them, as flags in $timed. No window is shorter than
# half a second, so a short soak takes longer than was said.
timing() {
  # A run has a warm-up, a window, and a second in which it begins and ends; of 6 pairs there are 24 runs.
  local window
  window=$(awk -v s="$seconds" -v n="$1" 'BEGIN { w = s / n / 24 - 1.3; print (w < 0.5 ? 0.5 : w > 10 ? 10 : w) }')
  timed=(--pairs 6 --window "$window" --warm-up 0.3)
}

# disk NAME MIB: an ext4 of its own for that server's segments.
disk() {
  local dir=$here/servers/$1/logs
  mkdir -p "$dir"
  {
    truncate -s "$2M" "$here/$1.img" && mkfs.ext4 -q -F "$here/$1.img" && mount -o loop "$here/$1.img" "$dir"
  } 2>"$here/disk.txt" || cannot "no file system can be mounted: $(tail -1 "$here/disk.txt")"
}

# nested: a corpus of huge nested records; its path.
nested() {
  local path=$here/nested.ndjson
  awk 'BEGIN {
    for (line = 0; line < 8; line++) {
      text = "\"end\""
      for (depth = 0; depth < 60; depth++) {
        text = "{\"depth\":" depth ",\"tags\":[\"a\\u0062c\",\"d\\\\e\",null,true,1.5e3],\"inner\":" text "}"
      }
      rest = ""
      for (at = 0; at < 12; at++) rest = rest ",\"copy" at "\":" text
      print "{\"level\":\"info\",\"message\":\"nested " line "\"" rest "}"
    }
  }' >"$path"
  echo "$path"
}

# calls SERVER SECONDS: what it asks of the kernel per record meanwhile, as notes; where perf may not look, that is said.
calls() {
  local out=$here/calls-$1.txt script=$soak/../scripts/perf-stat
  if [[ ! -x $script ]] || ! "$script" --seconds "$2" --admin "${admin[$1]#http://}" "${pid[$1]}" >"$out" 2>&1; then
    note "$1: system calls were not counted: $(tail -1 "$out" 2>/dev/null || echo "there is no $script")"
    return 0
  fi
  note "$1, per record: $(awk '$NF ~ /^[0-9.]+$/ && $1 !~ /^records/ { name = $1; sub(/.*:/, "", name); printf "%s %s  ", name, $NF }' "$out")"
}

note() {
  echo "$*" >>"$here/notes.txt"
}

# Segments are large, and what they held has been compared.
forget_segments() {
  rm -rf "$here"/servers/*/logs "$here"/loads/*/ledger
}

end_all() {
  trap '' TERM INT
  trap - EXIT
  local name
  for name in "${!load_pid[@]}"; do
    kill -TERM "${load_pid[$name]}" 2>/dev/null || true
    wait "${load_pid[$name]}" 2>/dev/null || true
  done
  for name in "${!watcher[@]}"; do
    kill -TERM "${watcher[$name]}" 2>/dev/null || true
    wait "${watcher[$name]}" 2>/dev/null || true
  done
  declare -F clean_up >/dev/null && clean_up
  return 0
}
