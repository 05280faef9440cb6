# Both under the same emulation, one after the other over the same veth pair: as many WRITEs of 64 KiB. A number to read,
# not one to pass or fail by: what the emulation makes slow is another thing for a kernel than for us.
set -eu
. "$LAB_TEST/../rxe.sh"
rxe_over_veth
count=400

# MiB/s: the fourth column of the line of that size.
average() { sed -n 's/^ 65536 *[0-9]* *[0-9.]* *\([0-9.]*\) .*/\1/p' "$1"; }

ip netns exec b ib_write_bw -d rxeb -F -n $count -s 65536 >/run/rxe.server 2>&1 &
sleep 2
ip netns exec a ib_write_bw -d rxea -F -n $count -s 65536 10.77.0.2 >/run/rxe.client 2>&1 ||
    { cat /run/rxe.client /run/rxe.server; exit 1; }
wait
rxe=$(average /run/rxe.client)

# The port of RoCEv2 belongs to rxe while it is there.
ip netns exec a rdma link delete rxea
ip netns exec b rdma link delete rxeb
ip netns exec b "$LAB" program wayleave perftest write-bw -d 10.77.0.2 -n $count --patience 2m \
    >/run/our.server 2>/run/our.said &
until grep -q waiting /run/our.said; do kill -0 $! || { cat /run/our.said; exit 1; }; sleep 0.2; done
ip netns exec a "$LAB" program wayleave perftest write-bw 10.77.0.2 -d 10.77.0.1 -n $count --patience 2m \
    >/run/our.client 2>&1 || { cat /run/our.client /run/our.said; exit 1; }
wait
grep -q "all as they were sent" /run/our.server || { cat /run/our.server; exit 1; }
ours=$(average /run/our.client)

# The very program that ran over rxe, over the drop-in; where that was not built there is no such number.
library=$LAB_ROOT/artifacts/ibverbs/lib
beside=
if [ -e "$library/libibverbs.so.1" ]; then
    ip netns exec b env LD_LIBRARY_PATH="$library" WAYLEAVE_DEVICES=wl0@10.77.0.2 \
        ib_write_bw -F -n $count -s 65536 >/run/dropin.server 2>&1 &
    sleep 2
    ip netns exec a env LD_LIBRARY_PATH="$library" WAYLEAVE_DEVICES=wl0@10.77.0.1 \
        ib_write_bw -F -n $count -s 65536 10.77.0.2 >/run/dropin.client 2>&1 ||
        { cat /run/dropin.client /run/dropin.server; exit 1; }
    wait
    same=$(average /run/dropin.client)
    beside="; the same ib_write_bw over the drop-in $same MiB/s, ratio $(awk "BEGIN { printf \"%.2f\", $same / $rxe }")"
fi
[ -n "$rxe" ] && [ -n "$ours" ] || { cat /run/rxe.client /run/our.client; exit 1; }
echo "WRITE of 64 KiB: rxe $rxe MiB/s, ours $ours MiB/s, ratio $(awk "BEGIN { printf \"%.2f\", $ours / $rxe }")$beside"
