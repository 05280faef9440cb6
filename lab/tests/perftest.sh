# Functions of both sides of tests in which Debian's perftest, and ibv_rc_pingpong, run over the kernel's rxe0 in the
# guest, and `wayleave perftest` on the host. Both get a file of runs: NAME ROLE TOOL OURS ARGUMENT..., the role that of
# our side. The tools take their buffer from a file, so that its bytes can be compared: first half what is sent, second
# what arrives.

run_limit_s=120

# Waits for what the other side leaves, and no longer than a run may take.
await() {
    local looks=$((run_limit_s * 10))
    until [ -e "$LAB_SHARE/$1" ]; do
        looks=$((looks - 1))
        [ $looks -gt 0 ] || { echo "the other side left no $1" >&2; exit 1; }
        sleep 0.1
    done
}

field() { sed -n "s/.*\"$2\":\"\{0,1\}\([^\",}]*\).*/\1/p" "$LAB_SHARE/$1.json"; }
hash_of() { tail -c +$(($2 + 1)) "$1" | head -c "$3" | sha256sum | cut -d' ' -f1; }
same() { [ "$2" = "$3" ] || { echo "$1: $4: $2 here, $3 there" >&2; exit 1; }; }

# The index of the GID that is the IPv4 address.
find_gid() {
    local file
    file=$(grep -l "0000:0000:0000:0000:0000:ffff" /sys/class/infiniband/rxe0/ports/1/gids/* | head -1)
    echo "${file##*/}"
}

compare_all() { # name tool
    same "$1" "$("$2" --version | sed 's/^Version: //')" "$(field "$1" peer_version)" "version"
    case $1 in
    # Whoever only lets itself be written or read knows the last size.
    all-*-client | all-send*) same "$1" 23 "$(grep -o '"size_bytes"' "$LAB_SHARE/$1.json" | wc -l)" "sizes" ;;
    esac
}

compare() { # name role tool
    local buffer=/dev/shm/buffer theirs=65536 length=65536
    case $1 in
    *-uc-*) theirs=4096 length=4096 ;;
    *-ud-*) theirs=4160 length=4096 ;; # a cache line stands before the data, with the header in its end
    *-four*) theirs=262144 length=262144 ;;
    esac
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
        client-ib_read_bw) same "$1" "$(hash_of $buffer $theirs $length)" "$(field "$1" received_sha256)" "bytes read" ;;
        server-ib_read_bw) same "$1" "$(hash_of $buffer 0 $length)" "$(field "$1" sent_sha256)" "bytes read" ;;
        client-*) same "$1" "$(hash_of $buffer $theirs $length)" "$(field "$1" sent_sha256)" "bytes sent" ;;
        server-*) same "$1" "$(hash_of $buffer 0 $length)" "$(field "$1" received_sha256)" "bytes received" ;;
        esac
        ;;
    esac
}

# Whether somebody waits for a client at port 18515, over TCP or by rdma_cm.
listens() {
    grep -q ':4853 [0-9A-F]*:0000 0A' /proc/net/tcp /proc/net/tcp6 || rdma resource show cm_id | grep -q LISTEN
}

# The tools: FILE of runs.
play_tools() {
    local name role tool arguments extra from log
    while read -r name role tool _ arguments; do
        case $tool-$name in
        ibv_rc_pingpong-*) extra="-g $(find_gid)" ;;
        *lat* | *-all-*) extra="-F" ;;
        *)
            [ $tool = ib_atomic_bw ] && from=/dev/zero || from=/dev/urandom
            head -c 1048576 $from >/dev/shm/buffer
            extra="-F --mmap=/dev/shm/buffer"
            ;;
        esac
        log=$LAB_SHARE/$name.txt
        if [ "$role" = server ]; then
            await "$name.waits"
            timeout $run_limit_s $tool $arguments $extra "$LAB_HOST" >"$log" 2>&1 || { echo "$name:"; cat "$log"; exit 1; }
        else
            timeout $run_limit_s $tool $arguments $extra >"$log" 2>&1 &
            until listens || ! kill -0 $! 2>/dev/null; do sleep 0.1; done
            touch "$LAB_SHARE/$name.waits"
            wait $! || { echo "$name:"; cat "$log"; exit 1; }
        fi
        await "$name.json"
        case $tool in ib_*) compare_all "$name" "$tool" ;; esac
        case $extra in *mmap* | -g*) compare "$name" "$role" "$tool" ;; esac
        echo "$name: ok"
    done <"$1"
}

# Ours: FILE of runs.
play_ours() {
    local name role ours arguments
    while read -r name role _ ours arguments; do
        ours="wayleave perftest $ours $arguments -d $LAB_HOST --json ${patience:-}"
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
    done <"$1"
}
