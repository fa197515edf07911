#!/usr/bin/env bash
# clients in network namespaces of their own, each an address and a TCP stack, whose connections are counted from inside
#
# Each client has connections that stay, some that say nothing, and some that end again and again. What its kernel counts
# has to be what the server says, to the connection. One more wants more than an address may have, and is refused alone.
# shellcheck source=soak/lib.sh
source "$soak/lib.sh"

clients=${SOAK_CLIENTS:-8}
connections=${SOAK_CONNECTIONS:-100}
rate=${SOAK_RATE:-1600}
idle=$connections
crowd=10
# One of the crowd is there twice while its last connection is being closed.
per_address=$((connections + idle + 2 * crowd))
patient=(--max-late-share 100% --max-error-rate 0.1%)
# Interfaces have 15 letters, and others may run the same.
tag=rgs$$

clean_up() {
  local at
  for ((at = 0; at <= clients; at++)); do
    ip netns del "$tag-$at" 2>/dev/null || true
    ip link del "$tag-$at" 2>/dev/null || true
  done
  ip link del "$tag" 2>/dev/null || true
}

# lab: a bridge with an address that nobody has, and a namespace on it for each client.
lab() {
  local net at
  # Set aside for measurements (RFC 2544).
  for ((net = 0; net < 256; net++)); do
    subnet=198.18.$((($$ + net) % 256))
    [[ -n $(ip -4 route show root "$subnet.0/24") ]] || break
  done
  {
    ip link add "$tag" type bridge && ip addr add "$subnet.1/24" dev "$tag" && ip link set "$tag" up
  } 2>"$here/lab.txt" || cannot "no bridge can be made: $(tail -1 "$here/lab.txt")"
  for ((at = 0; at <= clients; at++)); do
    {
      ip netns add "$tag-$at" && ip link add "$tag-$at" type veth peer name eth0 netns "$tag-$at" &&
        ip link set "$tag-$at" master "$tag" up
      inside "$at" ip addr add "$subnet.$((at + 2))/24" dev eth0
      inside "$at" ip link set eth0 up
    } 2>"$here/lab.txt" || cannot "no network namespace can be made: $(tail -1 "$here/lab.txt")"
  done
}

# inside CLIENT COMMAND...: in that client's namespace.
inside() {
  ip netns exec "$tag-$1" "${@:2}"
}

# established CLIENT: connections to the server that its kernel has.
established() {
  local hex
  hex=$(printf '%02X' 1 "${subnet##*.}" 18 198):$(printf '%04X' "${addr[main]##*:}")
  # shellcheck disable=SC2016
  inside "$1" awk -v to="$hex" '$3 == to && $4 == "01"' /proc/net/tcp | wc -l
}

# counted CLIENT NAME: a count of TCP's since that namespace was made.
counted() {
  # shellcheck disable=SC2016
  inside "$1" awk -v name="$2" '$1 != "Tcp:" { next } !at { while ($(++at) != name); next } { print $at }' /proc/net/snmp
}

# all FUNCTION [ARGUMENT...]: the sum over all clients, the greedy one excepted.
all() {
  local sum=0 at
  for ((at = 1; at <= clients; at++)); do
    sum=$((sum + $("$1" "$at" "${@:2}")))
  done
  echo "$sum"
}

# A look of the server and one of the clients' kernels cannot be of the same moment: what is compared is where nothing changed.
same() {
  local try here_now there
  for ((try = 0; try < 20; try++)); do
    here_now=$(all established) there=$(status main '/shards/*/connections')
    [[ $here_now != "$there" ]] || break
    sleep 0.2
  done
  claim "$1: connections established, as the clients' kernels count" "$here_now" at_least "$2"
  claim "$1: connections, as the server says, less those" "$((there - here_now))" at_most 0
  claim "$1: connections that the kernels count, less those the server says" "$((here_now - there))" at_most 0
}

needs_root "network namespaces are made"
needs ip awk
lab
serve main $((clients * per_address + per_address)) --host "$subnet.1" --max-connections-per-address "$per_address"
for ((at = 1; at <= clients; at++)); do
  # shellcheck disable=SC2046
  netns=$tag-$at load "client-$at" main $(ledger "client-$at") --plain-share 50% -c "$connections" --idle-connections "$idle" \
    -R $((rate / clients)) -d "${seconds}s" -n 0 "${patient[@]}"
  # shellcheck disable=SC2046
  netns=$tag-$at load "crowd-$at" main $(ledger "crowd-$at") --mode session -c "$crowd" -R "$crowd" -d "$((seconds / 2))s" -n 0 \
    --reconnect-every 200ms "${patient[@]}"
done
# The greedy one's own address has no room for half of what it wants.
may_fail=yes netns=$tag-0 load greedy main --mode plain -c 5 --idle-connections $((2 * per_address)) -R 5 -d "$((seconds / 2))s" -n 0 \
  --reconnect-for 1s "${patient[@]}"
loaded greedy
mapfile -t crowds < <(seq -f crowd-%g "$clients")
loaded "${crowds[@]}"
same "the crowds are gone" $((clients * (connections + idle)))
mapfile -t names < <(seq -f client-%g "$clients")
loaded "${names[@]}"
# Two looks at rest.
sleep 3
same "all are gone" 0
opened=$(all counted ActiveOpens) failed=$(all counted AttemptFails) greedy=$(counted 0 ActiveOpens)
taken=$(status main '/shards/*/connections_accepted') refused=$(metric main ringest_connections_refused_total address)
claim "connections opened, as the clients' kernels count" "$opened" at_least $((clients * (connections + idle + crowd * seconds)))
claim "connections that failed to open" "$failed" at_most 0
claim "connections taken or refused, less those opened" "$((taken + refused - opened - greedy))" at_most 0
claim "connections opened, less those taken or refused" "$((opened + greedy - taken - refused))" at_most 0
claim "connections refused to the greedy address" "$refused" at_least "$per_address"
broken() { look "$here/loads/client-$1/generator.json" '/tests/0/results/faults/*'; }
claim "connections of good clients that broke" "$(all broken)" at_most 0
note "$clients clients opened $opened connections, $(all counted RetransSegs) segments were sent again; the greedy one opened $greedy," \
  "of which $refused were refused"
end_server main
reconcile main main "${names[@]}" "${crowds[@]}"
forget_segments
