# Our side of rping on the host's own kernel, beside the emulated machine. Without IPv6 there, IPv4 only.
set -eu
await() { until [ -e "$LAB_SHARE/$1" ]; do sleep 0.1; done; }

await addresses6
read -r host6 guest6 <"$LAB_SHARE/addresses6"
families=4
grep -q '^fd88' /proc/net/if_inet6 2>/dev/null && families="4 6"
echo "$families" >"$LAB_SHARE/families.new"
mv "$LAB_SHARE/families.new" "$LAB_SHARE/families"
for family in $families; do
    [ "$family" = 4 ] && own=$LAB_HOST peer=$LAB_GUEST || own=$host6 peer=$guest6
    "$LAB" program rping-peer server "$own" >"$LAB_SHARE/waits$family" &
    server=$!
    until grep -q waiting "$LAB_SHARE/waits$family"; do sleep 0.1; done
    touch "$LAB_SHARE/server$family"
    wait $server
    await "listens$family"
    "$LAB" program rping-peer client "$own" "$peer"
    touch "$LAB_SHARE/done$family"
done
