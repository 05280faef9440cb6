# The sender is the guest's kernel, the receiver our NIC and TCP at the other end of a TAP; netem stands between them.
set -eu
modprobe tun
modprobe sch_netem
exec "$LAB" program tcp-receiver
