# rxe0 is the kernel's RoCEv2 device over a card whose other end is a TAP device of the host.
set -eu
. "$LAB_TEST/../rxe.sh"
rxe_over_network
ip route add 224.0.0.0/4 dev eth0
"$LAB" program kernel-multicast rxe0

leave() { echo '""' >"$LAB_SHARE/$1.next"; mv "$LAB_SHARE/$1.next" "$LAB_SHARE/$1.json"; }

timeout 40 mckey -m 239.88.1.3 -b "$LAB_GUEST" -C 5
leave mckey.received
for _ in $(seq 400); do [ -e "$LAB_SHARE/mckey.listens.json" ] && break; sleep 0.1; done
timeout 40 mckey -m 239.88.1.3 -b "$LAB_GUEST" -C 5 -s
echo "mckey: ok"
