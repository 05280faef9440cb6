# The sender is the guest's kernel, the receiver our NIC and TCP at the other end of a TAP; netem stands between them.
set -eu
modprobe tun
modprobe sch_netem
modprobe veth
ip link set lo up
ip link add va type veth peer name vb
modprobe dummy
modprobe udmabuf 2>/dev/null || [ -c /dev/udmabuf ]
ip link add dm type dummy
ip link add nk type netkit 2>/dev/null || true
"$LAB" program devmem-refusals lo dm $([ -e /sys/class/net/nk ] && echo nk) va
exec "$LAB" program tcp-receiver ${LAB_TCP_BYTES:-}
