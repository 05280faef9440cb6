# perftest's own tools, and ibv_rc_pingpong, over rxe0; the other side is `wayleave perftest` on the host. The tools
# take their buffer from a file, so that its bytes can be compared: first half what is sent, second what arrives.
set -eu
. "$LAB_TEST/../rxe.sh"
. "$LAB_TEST/runs.sh"
modprobe rdma_ucm
rxe_over_network
runs >/run/runs

field() { sed -n "s/.*\"$2\":\"\{0,1\}\([^\",}]*\).*/\1/p" "$LAB_SHARE/$1.json"; }
hash_of() { tail -c +$(($2 + 1)) "$1" | head -c "$3" | sha256sum | cut -d' ' -f1; }
same() { [ "$2" = "$3" ] || { echo "$1: $4: $2 here, $3 there" >&2; exit 1; }; }

# The index of the GID that is the IPv4 address.
gid=$(grep -l "0000:0000:0000:0000:0000:ffff" /sys/class/infiniband/rxe0/ports/1/gids/* | head -1)
gid=${gid##*/}

compare() { # name role tool
    local buffer=/dev/shm/buffer theirs=65536
    case $3 in
    ibv_rc_pingpong)
        # Our client compares by itself; what it answers a server of ours is what it sent, 0x7b.
        [ "$2" = client ] || same "$1" "$(head -c 4096 /dev/zero | tr '\0' '{' | sha256sum | cut -d' ' -f1)" \
            "$(field "$1" received_sha256)" "bytes"
        ;;
    ib_atomic_bw)
        same "$1" 200 "$(field "$1" additions)" "additions"
        ;;
    ib_*_bw)
        case $2-$3 in
        client-ib_read_bw) same "$1" "$(hash_of $buffer $theirs 65536)" "$(field "$1" received_sha256)" "bytes read" ;;
        server-ib_read_bw) same "$1" "$(hash_of $buffer 0 65536)" "$(field "$1" sent_sha256)" "bytes read" ;;
        client-*) same "$1" "$(hash_of $buffer $theirs 65536)" "$(field "$1" sent_sha256)" "bytes sent" ;;
        server-*) same "$1" "$(hash_of $buffer 0 65536)" "$(field "$1" received_sha256)" "bytes received" ;;
        esac
        ;;
    esac
}

while read -r name role tool _ arguments; do
    case $tool-$name in
    ibv_rc_pingpong-*) extra="-g $gid" ;;
    *lat* | *-write-two-* | *-all-*) extra="-F" ;;
    *)
        [ $tool = ib_atomic_bw ] && from=/dev/zero || from=/dev/urandom
        head -c 1048576 $from >/dev/shm/buffer
        extra="-F --mmap=/dev/shm/buffer"
        ;;
    esac
    log=$LAB_SHARE/$name.txt
    if [ "$role" = server ]; then
        await "$name.waits"
        timeout 60 $tool $arguments $extra "$LAB_HOST" >"$log" 2>&1 || { echo "$name:"; cat "$log"; exit 1; }
    else
        timeout 60 $tool $arguments $extra >"$log" 2>&1 &
        sleep 0.5
        touch "$LAB_SHARE/$name.waits"
        wait $! || { echo "$name:"; cat "$log"; exit 1; }
    fi
    await "$name.json"
    case $extra in *mmap* | -g*) compare "$name" "$role" "$tool" ;; esac
    echo "$name: ok"
done </run/runs
