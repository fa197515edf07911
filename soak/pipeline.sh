#!/usr/bin/env bash
# an analytical engine (DuckDB) counts what is stored, by run and worker, against what the generator was promised
#
# The engine reads the segments themselves, plain and compressed, as somebody would who has never heard of Ringest: what it
# counts owes nothing to the server's own reader. Sessions break off and resume meanwhile, so that lines are sent twice.
# shellcheck source=soak/lib.sh
source "$soak/lib.sh"

duckdb=2.0.0
rate=${SOAK_RATE:-2000}
# The engine's own time grows with what is stored; what takes hours is for endurance.
sending=$((seconds < 600 ? seconds : 600))
patient=(--max-late-share 100% --max-error-rate 0.1%)

# engine: the interpreter that has DuckDB, made once and kept.
engine() {
  local venv=${XDG_CACHE_HOME:-$HOME/.cache}/ringest-soak/duckdb-$duckdb
  python=$venv/bin/python
  "$python" -c 'import duckdb' 2>/dev/null && return
  rm -rf "$venv"
  mkdir -p "${venv%/*}"
  {
    python3 -m venv "$venv" &&
      timeout 300 "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "duckdb==$duckdb"
  } >"$here/pip.txt" 2>&1 || {
    rm -rf "$venv"
    cannot "there is no DuckDB $duckdb here, and it could not be installed: $(tail -1 "$here/pip.txt")"
  }
}

# count SERVER: claims, from the engine's count of that server's segments.
count() {
  local name=$1
  "$python" "$soak/lib/pipeline.py" "$here/servers/$name/logs" "$here/counted-$name.csv" "$here/loads/$name"-{sessions,plain} \
    >"$here/counted-$name.json" || fail "the engine could not count what $name has stored"
  counted() { look "$here/counted-$name.json" "/$1"; }
  claim "$name: rows promised, as the engine reads the ledgers" "$(counted promised)" at_least $((rate * sending / 2))
  claim "$name: rows promised and not stored" "$(counted lost)" at_most 0
  claim "$name: rows stored twice" "$(counted twice)" at_most 0
  claim "$name: rows stored that were refused or never sent" "$(counted phantom)" at_most 0
  claim "$name: rows that are no record" "$(counted malformed)" at_most 0
  claim "$name: rows by which ledgers and generators' reports differ" "$(counted unreported)" at_most 0
  claim "$name: workers that were counted" "$(counted workers)" at_least 4
  claim "$name: connections that broke off" "$(counted reconnects)" at_least "$sending"
  note "$name: $(counted stored) rows counted by DuckDB $duckdb in $(counted engine_ms) ms, $(counted promised) promised"
}

needs python3
engine
serve plain 100 --segment-mib 64
serve packed 100 --segment-mib 64 --segment-compression gzip
for name in plain packed; do
  # shellcheck disable=SC2046
  load "$name-sessions" "$name" $(ledger "$name-sessions") --mode session -c 20 --threads 2 -R $((rate / 2)) -d "${sending}s" -n 0 \
    --corpus-shape mixed --bad-share 1% --reconnect-every 1s "${patient[@]}"
  # shellcheck disable=SC2046
  load "$name-plain" "$name" $(ledger "$name-plain") --mode plain -c 20 --threads 2 -R $((rate / 2)) -d "${sending}s" -n 0 --rich-share 10% \
    --bad-share 1% "${patient[@]}"
done
loaded plain-sessions plain-plain packed-sessions packed-plain
# Two looks at rest.
sleep 3
for name in plain packed; do
  end_server "$name"
  reconcile "$name" "$name" "$name-sessions" "$name-plain"
  count "$name"
done
forget_segments
