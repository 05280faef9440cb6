# The card's other end is a TAP device of the host. rxe0 is the kernel's RoCEv2 device over it.
set -eu
. "$LAB_TEST/../rxe.sh"
rxe_over_network
"$LAB" program kernel-peer rxe0
