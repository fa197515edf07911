# shellcheck shell=bash
# What the scripts that watch a process have in common: which process, for how long, and how many records it took
# meanwhile. Sourced, never run.
#
# A watched process is one that runs, named by its id, or a command that is started and ended here. What is started here
# is all that is ever signalled.

seconds=10
out=
admin=
pid=
command=()
started=
self=${0##*/}

fail() {
  echo "scripts/$self: $*" >&2
  exit 1
}

refuse() {
  echo "scripts/$self: $*; see scripts/$self --help" >&2
  exit 2
}

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
}

# [--seconds N] [--out FILE] [--admin ADDRESS] PID | -- COMMAND...
read_target() {
  while [[ $# -gt 0 ]]; do
    case $1 in
      --seconds) [[ ${2:-} =~ ^[1-9][0-9]{0,4}$ ]] || refuse "--seconds needs a number from 1 to 99999"; seconds=$2; shift 2 ;;
      --out) [[ -n ${2:-} ]] || refuse "--out needs a file"; out=$2; shift 2 ;;
      --admin) [[ ${2:-} == *:* ]] || refuse "--admin needs an address like 127.0.0.1:9088"; admin=$2; shift 2 ;;
      --help | -h) usage; exit 0 ;;
      --) shift; command=("$@"); break ;;
      -*) refuse "unknown argument $1" ;;
      *) [[ -z $pid && $1 =~ ^[1-9][0-9]*$ ]] || refuse "\"$1\" is no process id; a command stands behind --"; pid=$1; shift ;;
    esac
  done
  if [[ -n $pid && ${#command[@]} -gt 0 ]]; then refuse "a process id or a command, not both"; fi
  if [[ -z $pid && ${#command[@]} -eq 0 ]]; then refuse "which process: an id, or a command behind --"; fi
  if [[ -n $pid && ! -d /proc/$pid ]]; then fail "there is no process $pid"; fi
  if [[ -n $out ]]; then : 2>/dev/null >"$out" || fail "$out cannot be written"; fi
}

# A program, and Debian's package that has it.
need() {
  command -v "$1" >/dev/null || fail "$1 is needed and not here; on Debian:  apt-get install $2"
}

# The kernel's tracepoints are files of a file system that may not be mounted.
need_tracepoints() {
  if [[ -r /sys/kernel/tracing/available_events ]]; then return; fi
  [[ $EUID -eq 0 ]] || fail "the kernel's tracepoints cannot be read; run it as root"
  mount -t tracefs none /sys/kernel/tracing 2>/dev/null || fail "tracefs cannot be mounted on /sys/kernel/tracing"
}

# Starts the command, if it is one; `pid` is its process.
start_target() {
  if [[ -n $pid ]]; then return; fi
  "${command[@]}" &
  pid=$!
  started=$pid
  trap end_target EXIT
}

end_target() {
  if [[ -n $started ]] && kill -TERM "$started" 2>/dev/null; then wait "$started" 2>/dev/null || true; fi
  started=
}

# Lines that the server has received, or nothing where nobody says.
received() {
  if [[ -z $admin ]] || ! command -v curl >/dev/null; then return; fi
  curl -sf --max-time 2 "http://$admin/status.json" |
    python3 -c 'import json, sys; print(sum(s.get("received", 0) for s in json.load(sys.stdin)["shards"]))' 2>/dev/null || true
}

# Samples of the process's stacks, in perf's format.
record_samples() { # FILE
  local event=cycles
  perf stat -e cycles -- true 2>&1 | grep -q 'not supported' && event=cpu-clock
  perf record -q -e "$event" -F 997 -g -o "$1" -p "$pid" -- sleep "$seconds" 2>/dev/null ||
    fail "perf cannot sample process $pid; as root, or with kernel.perf_event_paranoid at most 1 (it is $(</proc/sys/kernel/perf_event_paranoid))"
}

# What draws flame graphs. Built once, beside the other build products.
need_inferno() {
  local tools
  tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools
  PATH=$PATH:$tools/bin
  if command -v inferno-flamegraph >/dev/null; then return; fi
  echo "building inferno into $tools, once" >&2
  CARGO_PROFILE_RELEASE_LTO=off CARGO_TARGET_DIR=$tools/build timeout 20m \
    cargo install --quiet --locked --version 0.12.8 --root "$tools" inferno || fail "inferno does not build; cargo says why above"
  rm -rf "$tools/build"
}
