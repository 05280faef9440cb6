# Our side: `wayleave perftest` on the host's own kernel, beside the emulated machine.
set -eu
. "$(dirname "${BASH_SOURCE[0]}")/runs.sh"
runs >"$LAB_SHARE/runs"
while read -r name role _ ours arguments; do
    ours="wayleave perftest $ours $arguments -d $LAB_HOST --json"
    if [ "$role" = server ]; then
        : >"$LAB_SHARE/$name.said"
        "$LAB" program $ours >"$LAB_SHARE/$name.json.new" 2>"$LAB_SHARE/$name.said" &
        until grep -q waiting "$LAB_SHARE/$name.said"; do
            kill -0 $! || { cat "$LAB_SHARE/$name.said"; exit 1; }
            sleep 0.1
        done
        touch "$LAB_SHARE/$name.waits"
        wait $! || { echo "$name:"; cat "$LAB_SHARE/$name.said"; exit 1; }
    else
        await "$name.waits"
        "$LAB" program $ours "$LAB_GUEST" >"$LAB_SHARE/$name.json.new" || { echo "$name: our side failed"; exit 1; }
    fi
    mv "$LAB_SHARE/$name.json.new" "$LAB_SHARE/$name.json"
done <"$LAB_SHARE/runs"
echo "all runs ended"
