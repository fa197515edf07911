#!/usr/bin/env bash
# one core pinned, one shard unpinned, all cores pinned, all cores floating: the same total work, by pairs
#
# shellcheck source=soak/lib.sh
source "$soak/lib.sh"

processors=$(nproc)
[[ $processors -ge 2 ]] || cannot "one processor: pinned and unpinned are the same"
all=0-$((processors - 1))
timing 3
# Work that is the same for all: a rate well below what one core takes.
compared pinned-or-floating cpus=0 pin=no --no-pin --sessions "${timed[@]}" -c 50 -R 20000
compared one-core-or-all cpus=0,shards=1 "cpus=$all,shards=$processors" --no-pin --sessions "${timed[@]}" -c 50 -R 20000
compared all-pinned-or-floating "cpus=$all,shards=$processors" "pin=no,shards=$processors" --no-pin --sessions "${timed[@]}" -c 50 -R 20000
[[ $processors -gt 2 ]] || note "2 processors: where the server has both, it shares one with the generator"
