# rxe0 is the kernel's RoCEv2 device over a card whose other end is a TAP device of the host.
set -eu
. "$LAB_TEST/../rxe.sh"
rxe_over_network
ip route add 224.0.0.0/4 dev eth0

# Where a datagram has gone that did not arrive.
tell() {
    rc=$?
    [ $rc -eq 0 ] && return
    set +e
    ip -s link show eth0
    ip maddr show eth0
    grep -E '^(Ip|Udp|IpExt):' /proc/net/snmp /proc/net/netstat
    grep -H . /sys/class/infiniband/rxe0/ports/1/hw_counters/* | grep -v ':0$'
    exit $rc
}
trap tell EXIT

"$LAB" program kernel-multicast rxe0

has() { [ -e "$LAB_SHARE/$1.json" ]; }
leave() { echo '""' >"$LAB_SHARE/$1.next"; mv "$LAB_SHARE/$1.next" "$LAB_SHARE/$1.json"; }

timeout 40 mckey -m 239.88.1.3 -b "$LAB_GUEST" -C 5
leave mckey.received
for _ in $(seq 100); do has mckey.listens && break; sleep 0.1; done
for _ in 1 2 3 4; do
    timeout 10 mckey -m 239.88.1.3 -b "$LAB_GUEST" -C 5 -s || continue
    for _ in $(seq 20); do has mckey.heard && break; sleep 0.1; done
    has mckey.heard && break
done
has mckey.heard
echo "mckey: ok"
