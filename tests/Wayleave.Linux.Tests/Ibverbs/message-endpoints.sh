#!/usr/bin/env bash
# fi_pingpong with message endpoints, in a network namespace of its own: libfabric leaves out interfaces that are loopbacks, so the
# devices need addresses of another one. Exit 77 where the namespace cannot have one.
set -euo pipefail
ip link set lo up
ip tuntap add wl0 mode tap && ip addr add 10.9.0.1/24 dev wl0 && ip addr add 10.9.0.2/24 dev wl0 && ip link set wl0 up || exit 77
WAYLEAVE_DEVICES=wl0@10.9.0.1 fi_pingpong "$@" &
server=$!
until ss -Hltn sport = :47592 | grep -q . || ! kill -0 $server 2>/dev/null; do sleep 0.02; done
WAYLEAVE_DEVICES=wl0@10.9.0.2 fi_pingpong "$@" 10.9.0.1
wait $server
