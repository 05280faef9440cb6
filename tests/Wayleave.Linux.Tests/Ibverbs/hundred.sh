#!/usr/bin/env bash
# hundred.sh rping BLOCK | hundred.sh PROGRAM BLOCK: a hundred runs, four at a time, each on addresses of its own, BLOCK.1 to
# BLOCK.200. Says which failed, and exits with 1 when one did.
set -uo pipefail
program=$1
export block=$2
one() {
    local n=$2 server client hex
    server=$block.$((n * 2 + 1)) client=$block.$((n * 2 + 2))
    if [[ $1 != rping ]]; then
        WAYLEAVE_DEVICES=wl0@$server "$1" || { echo "run $n of $1: $?"; return 1; }
        return 0
    fi
    hex=$(IFS=.; set -- $server; printf '%02X%02X%02X%02X:12B7' "$4" "$3" "$2" "$1")
    WAYLEAVE_DEVICES=wl0@$server timeout 60 rping -s -a "$server" -C 1 &
    local pid=$!
    until grep -q " $hex " /proc/net/udp || ! kill -0 $pid 2>/dev/null; do :; done
    WAYLEAVE_DEVICES=wl0@$client timeout 60 rping -c -a "$server" -C 1 || { echo "client $n: $?"; kill $pid; return 1; }
    wait $pid || { echo "server $n: $?"; return 1; }
}
export -f one
seq 0 99 | xargs -P 4 -I{} bash -c 'one "$0" {}' "$program" || exit 1
