# Each dialog is a capture NAME.pcap in the share: lab/run vectors --keep leaves them for who wants new vectors.
set -eu
. "$LAB_TEST/../rxe.sh"
rxe_over_veth
"$LAB" program rxe-dialogs rxea rxeb
