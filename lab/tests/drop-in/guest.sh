# The kernel's side: rxe0, and rdma-core's own library.
set -eu
[ -e "$LAB_ROOT/artifacts/ibverbs/lib/libibverbs.so.1" ] || { echo "no drop-in library: run scripts/build-ibverbs"; exit 77; }
. "$LAB_TEST/../rxe.sh"
. "$LAB_TEST/../perftest.sh"
. "$LAB_TEST/runs.sh"
rxe_over_network
play guest "$LAB_HOST" "-x $(find_gid)"
