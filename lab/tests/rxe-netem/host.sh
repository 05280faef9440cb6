# Our side: `wayleave perftest` on the host's own kernel, beside the emulated machine.
set -eu
here=$(dirname "${BASH_SOURCE[0]}")
. "$here/../perftest.sh"
. "$here/runs.sh"
runs >"$LAB_SHARE/runs.new"
mv "$LAB_SHARE/runs.new" "$LAB_SHARE/runs" # the guest waits for it
# The longer form has the machine for long: it may stand still meanwhile.
[ -z "${LAB_RDMA_BYTES:-}" ] || patience="--patience 10m"
play_ours "$LAB_SHARE/runs"
echo "all runs ended"
