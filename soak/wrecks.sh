#!/usr/bin/env bash
# four small dioramas for learning to read the figures, each of which says which stage is guilty
#
# A slow stage, excessive small writes, a noisy neighbour, and memory that grew under large records and has to come back.
# Guilty is the stage in which most time is spent: how often it is passed times how long it takes.
# shellcheck source=soak/lib.sh
source "$soak/lib.sh"

declare -A records=()
part=$((seconds / 5 > 4 ? seconds / 5 : 4))
lax=(--max-late-share 100% --max-error-rate 1%)

# guilty SERVER: the stage with the most time spent in it, and how much of the time that is.
guilty() {
  local stage sum most=0 all=0 name=none
  for stage in receive parse queue write sync ack; do
    sum=$(status "$1" "/shards/*/stages/$stage/sum_ns")
    all=$((all + ${sum:-0}))
    [[ ${sum:-0} -le $most ]] || { most=$sum name=$stage; }
  done
  echo "$name $((all > 0 ? 100 * most / all : 0))"
}

# per_record SERVER STAGE: nanoseconds per record that were spent there.
per_record() {
  awk -v sum="$(status "$1" "/shards/*/stages/$2/sum_ns")" -v n="$(status "$1" '/shards/*/received')" \
    'BEGIN { printf "%.0f", (n > 0 ? sum / n : 0) }'
}

# long_lines KIB: a corpus of lines of that length; its path.
long_lines() {
  awk -v kib="$1" 'BEGIN {
    text = "0123456789abcdef"
    while (length(text) < kib * 1024 - 200) text = text text
    for (line = 0; line < 4; line++) {
      printf "{\"level\":\"info\",\"message\":\"long %d\",\"text\":\"%s\"}\n", line, substr(text, 1, kib * 1024 - 200)
    }
  }' >"$here/lines-$1.ndjson"
  echo "$here/lines-$1.ndjson"
}

# say SERVER FILE TIMES: sends the file so often, as a client in plain mode, and counts what is answered well.
say() {
  local said=0 answer
  exec {peer}<>"/dev/tcp/${addr[$1]%:*}/${addr[$1]##*:}"
  for ((time = 0; time < $3; time++)); do
    cat "$2" >&"$peer"
    for ((line = $(wc -l <"$2"); line > 0; line--)); do
      read -r -t 10 -u "$peer" answer || break 2
      [[ $answer != *'"status":"ok"'* ]] || said=$((said + 1))
    done
  done
  exec {peer}>&-
  echo "$said"
}

# A record of the usual kind, at the same rate: what the wrecks are held against.
serve plain 50 --shards 1
load plain plain --mode session -c 10 -R 1000 -d "${part}s" -n 0 "${lax[@]}"
loaded plain
read -r stage share < <(guilty plain)
note "plain: most time is spent in $stage ($share %); parse $(per_record plain parse) ns, write $(per_record plain write) ns per record"
parse_usual=$(per_record plain parse)
end_server plain

# 1. Huge nested records: the parser has to look at all of it.
serve slow-stage 50 --shards 1
load slow-stage slow-stage --mode session -c 10 -R 1000 -d "${part}s" -n 0 --corpus "$(nested)" "${lax[@]}"
loaded slow-stage
parse=$(per_record slow-stage parse)
note "slow-stage: parse takes $parse ns per record, of $parse_usual usually: guilty is parse"
claim "slow-stage: parse, times the usual" "$(awk -v a="$parse" -v b="$parse_usual" 'BEGIN { printf "%.2f", a / b }')" at_least 5
end_server slow-stage

# 2. A write and a sync for every record, as a client makes them that waits for each, against as many as come meanwhile.
for kind in bulk small-writes; do
  serve "$kind" 50 --shards 1
  depth=(-c 10 -p 200)
  [[ $kind == bulk ]] || depth=(-c 1 -p 1 --batch 1)
  load "$kind" "$kind" --mode session --closed "${depth[@]}" -d "${part}s" -n 0 "${lax[@]}"
  loaded "$kind"
  records[$kind]=$(status "$kind" '/shards/*/stored')
  blocks=$(awk -v b="$(status "$kind" '/shards/*/blocks')" -v n="${records[$kind]}" 'BEGIN { printf "%.4f", b / n }')
  read -r stage share < <(guilty "$kind")
  note "$kind: ${records[$kind]} records, $blocks blocks for each; most time is spent in $stage ($share %)"
  end_server "$kind"
done
claim "small-writes: blocks per record" "$blocks" at_least 0.9
claim "small-writes: records stored, as a share of those in bulk" \
  "$(awk -v a="${records[small-writes]}" -v b="${records[bulk]}" 'BEGIN { printf "%.4f", a / b }')" at_most 0.5
note "small-writes: guilty is $stage, by how often it is passed"

# 3. Somebody else on the server's core.
serve neighbour 50 --shards 1 --cpu-list 0
taskset --cpu-list 0 bash -c 'while :; do :; done' &
hog=$!
clean_up() { kill "$hog" 2>/dev/null || true; }
load neighbour neighbour --mode session -c 10 -R 1000 -d "${part}s" -n 0 --cpu-list $(($(nproc) - 1)) "${lax[@]}"
loaded neighbour
waited=$(awk '{ sum += $2 } END { printf "%.0f", sum / 1000000 }' "/proc/${pid[neighbour]}"/task/*/schedstat)
clean_up
note "neighbour: the server's threads waited $waited ms for the processor: guilty is whoever else is on it, and no stage"
claim "neighbour: ms that threads waited for the processor" "$waited" at_least 100
end_server neighbour

# 4. Lines of 8 KiB to 512 KiB, then peace.
serve large 50 --shards 1 --max-line 1048576 --segment-mib 136
for kib in 8 64 128 256 512; do
  claim "large: lines of $kib KiB that were answered well, of 40" "$(say large "$(long_lines "$kib")" 10)" at_least 40
done
sleep 5
resident=$(awk '/^VmRSS/ { print $2 * 1024 }' "/proc/${pid[large]}/status")
bound=$("$server" --shards 1 --max-line 1048576 --segment-mib 136 --print-config >"$here/large.json" && look "$here/large.json" /memory_bytes/base)
bound=$(awk -v base="$bound" -v shard="$(look "$here/large.json" /memory_bytes/per_shard)" 'BEGIN { print base + shard }')
note "large: $((resident >> 20)) MiB resident after lines of up to 512 KiB and 5 s of peace; the formula without connections is $((bound >> 20)) MiB"
claim "large: resident bytes in peace, as a share of the formula without connections" \
  "$(awk -v a="$resident" -v b="$bound" 'BEGIN { printf "%.3f", a / b }')" at_most 1
end_server large
forget_segments
