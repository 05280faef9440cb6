# A link that loses 1 %, doubles 5 % and reorders 5 % in both directions, and on it WRITEs, READs, SENDs and atomics of
# perftest's tools over rxe0 and of ours, bytes compared and additions counted.
set -eu
. "$LAB_TEST/../rxe.sh"
. "$LAB_TEST/../perftest.sh"
rxe_over_network
modprobe sch_netem
modprobe ifb numifbs=1
modprobe cls_matchall
modprobe act_mirred
modprobe sch_ingress
# What arrives goes through a device of its own, for netem works on what leaves.
netem="netem delay 200us reorder 95% loss 1% duplicate 5%"
ip link set ifb0 up
tc qdisc add dev eth0 root $netem limit 10000
tc qdisc add dev eth0 handle ffff: ingress
tc filter add dev eth0 parent ffff: matchall action mirred egress redirect dev ifb0
tc qdisc add dev ifb0 root $netem limit 10000
await runs
# The time limit of the test ends a longer form.
grep -q -- "-n 160 " "$LAB_SHARE/runs" || run_limit_s=360000
play_tools "$LAB_SHARE/runs"
for device in eth0 ifb0; do
    tc -s qdisc show dev $device | sed -n '/netem/,/Sent/p' | tr '\n' ' '
    echo
    dropped=$(tc -s qdisc show dev $device | sed -n '/netem/,$s/.*(dropped \([0-9]*\),.*/\1/p' | head -1)
    [ "$dropped" -gt 20 ] || { echo "netem on $device lost $dropped packets: that is no test" >&2; exit 1; }
done
