#!/usr/bin/env bash
# 1, 2, 4 ... shards at the same offered load and at the most they take: speed-up and efficiency per shard
#
# Every count is compared with one shard by pairs of runs. Where there are as many shards as processors the generator shares
# one with them, which the report's validity says.
# shellcheck source=soak/lib.sh
source "$soak/lib.sh"

processors=$(nproc)
counts=()
for ((shards = 2; shards < processors; shards *= 2)); do counts+=("$shards"); done
[[ $processors -lt 2 ]] || counts+=("$processors")
[[ ${#counts[@]} -gt 0 ]] || cannot "one processor has one shard: there is nothing to compare"
[[ $processors -gt 2 ]] || note "2 processors: a second shard and the generator share one, so what it adds here is a lower bound"
timing $((2 * ${#counts[@]}))
for shards in "${counts[@]}"; do
  compared "$shards-shards-same-load" shards=1,pin=no "shards=$shards,pin=no" --no-pin "${timed[@]}" --sessions -c 100 -R 20000
  compared "$shards-shards-at-the-most" shards=1,pin=no "shards=$shards,pin=no" --no-pin "${timed[@]}" -c 100 -p 500
  ratio=$(look "$here/compared/$shards-shards-at-the-most.json" /figures/1/comparison/ratio)
  claim "$shards shards: figures for a speed-up" "$ratio" at_least 0.01
  note "$shards shards: $(awk -v r="$ratio" -v n="$shards" 'BEGIN { printf "speed-up %.2f, efficiency per shard %.0f %%", r, 100 * r / n }')"
done
