#!/usr/bin/env bash
# every batch traced against none: the tax, with its interval
#
# The spans go to a collector that is not there: what they cost is here, and no network is in it.
# shellcheck source=soak/lib.sh
source "$soak/lib.sh"

traced=${RINGEST_TRACED_SERVER:-$server}
if ! "$traced" --otlp-endpoint http://127.0.0.1:9 --print-config >/dev/null 2>&1; then
  [[ -f $soak/../Cargo.toml ]] || cannot "this server is built without traces; RINGEST_TRACED_SERVER names one that has them"
  needs cargo
  (cd "$soak/.." && cargo build --release --locked --quiet -p ringest-server --features otlp --target-dir target/traced) ||
    fail "the server with traces does not build"
  traced=$soak/../target/traced/release/ringest-server
fi
timing 2
compared bulk "server=$traced,tracing=off" "server=$traced,tracing=on" "${timed[@]}" -c 50 -p 1000
compared at-a-rate "server=$traced,tracing=off" "server=$traced,tracing=on" "${timed[@]}" --sessions -c 50 -R 10000
