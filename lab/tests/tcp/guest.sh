# The sender is the guest's kernel, the receiver our NIC and TCP at the other end of a TAP; netem stands between them.
set -eu
modprobe tun
modprobe sch_netem
modprobe veth
ip link set lo up
ip link add va type veth peer name vb
"$LAB" program devmem-refusals lo va
exec "$LAB" program tcp-receiver
