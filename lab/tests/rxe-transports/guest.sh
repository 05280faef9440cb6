# rxe0 is the kernel's RoCEv2 device over a card whose other end is a TAP device of the host.
set -eu
. "$LAB_TEST/../rxe.sh"
rxe_over_network
"$LAB" program kernel-transports rxe0
