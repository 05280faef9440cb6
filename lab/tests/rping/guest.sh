# rping of rdma-core over rxe0; the other side is our rping on the host. The marks say who waits for whom.
set -eu
. "$LAB_TEST/../rxe.sh"
modprobe rdma_ucm
rxe_over_network

await() { until [ -e "$LAB_SHARE/$1" ]; do sleep 0.1; done; }

# The tool's help says 65536, and the tool takes one byte less.
if rping -c -a "$LAB_HOST" -C 1 -S 65536 >"$LAB_SHARE/most.txt" 2>&1; then
    echo "rping takes 65536 bytes now: let it" >&2
    exit 1
fi
grep -q "^Invalid size 65536" "$LAB_SHARE/most.txt"
echo "rping itself refuses 65536 bytes"

echo "$LAB_HOST6 $LAB_GUEST6" >"$LAB_SHARE/addresses6.new"
mv "$LAB_SHARE/addresses6.new" "$LAB_SHARE/addresses6"
await families
for family in $(cat "$LAB_SHARE/families"); do
    [ "$family" = 4 ] && host=$LAB_HOST own=$LAB_GUEST || host=$LAB_HOST6 own=$LAB_GUEST6

    # The kernel asks, we answer.
    await "server$family"
    rping -c -v -V -a "$host" -C 100 -S 65535 >"$LAB_SHARE/client$family.txt" 2>&1
    [ "$(grep -c '^ping data: rdma-ping-' "$LAB_SHARE/client$family.txt")" = 100 ]

    # We ask, the kernel answers.
    rping -s -v -V -a "$own" -C 100 -S 65535 >"$LAB_SHARE/answers$family.txt" 2>&1 &
    sleep 1
    touch "$LAB_SHARE/listens$family"
    await "done$family"
    wait || true
    [ "$(grep -c '^server ping data: rdma-ping-' "$LAB_SHARE/answers$family.txt")" = 100 ]
    echo "IPv$family: 100 pings of 65535 bytes in both roles"
done
