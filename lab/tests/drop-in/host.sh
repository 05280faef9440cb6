# Our side: the same programs on the host's own kernel, over the drop-in.
set -eu
here=$(dirname "${BASH_SOURCE[0]}")
. "$here/runs.sh"
export LD_LIBRARY_PATH=$here/../../../artifacts/ibverbs/lib WAYLEAVE_DEVICES=wl0@$LAB_HOST
[ -e "$LD_LIBRARY_PATH/libibverbs.so.1" ] || { echo "no drop-in library: run scripts/build-ibverbs"; exit 1; }
play host "$LAB_GUEST" "-x 0"
