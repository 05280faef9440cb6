# perftest's own tools, and ibv_rc_pingpong, over rxe0; the other side is `wayleave perftest` on the host.
set -eu
. "$LAB_TEST/../rxe.sh"
. "$LAB_TEST/../perftest.sh"
. "$LAB_TEST/runs.sh"
modprobe rdma_ucm
rxe_over_network
runs >/run/runs
play_tools /run/runs
