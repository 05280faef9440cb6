# NAME SERVER PROGRAM ARGUMENT...: SERVER is the side that waits. Both sides read it; $1 is what selects the GID there.
runs() {
    cat <<EOF
write-there guest ib_write_bw -F -n 200 -s 65536 -m 1024 $1
write-here host ib_write_bw -F -n 200 -s 65536 -m 1024 $1
send-there guest ib_send_bw -F -n 200 -s 20000 -m 4096 $1
read-here host ib_read_bw -F -n 100 -s 65536 -m 1024 $1
pingpong-there guest ibv_rc_pingpong -n 200 -c -g ${1#-x }
pingpong-here host ibv_rc_pingpong -n 200 -c -g ${1#-x }
EOF
}

await() {
    local looks=900
    until [ -e "$LAB_SHARE/$1" ]; do
        looks=$((looks - 1))
        [ $looks -gt 0 ] || { echo "the other side left no $1" >&2; exit 1; }
        sleep 0.1
    done
}

# Whether somebody waits for a client at port 18515.
listens() { grep -q ':4853 [0-9A-F]*:0000 0A' /proc/net/tcp /proc/net/tcp6; }

play() { # side, address of the other side, what selects the GID
    local name server log
    runs "$3" >"/tmp/runs.$1"
    while read -r name server command; do
        log=$LAB_SHARE/$name.$1.txt
        if [ "$server" = "$1" ]; then
            timeout 60 $command >"$log" 2>&1 &
            until listens || ! kill -0 $! 2>/dev/null; do sleep 0.1; done
            touch "$LAB_SHARE/$name.waits"
            wait $! || { echo "$name: server: $(tail -n 1 "$log")"; exit 1; }
        else
            await "$name.waits"
            timeout 60 $command "$2" >"$log" 2>&1 || { echo "$name: client: $(tail -n 1 "$log")"; exit 1; }
        fi
        touch "$LAB_SHARE/$name.$1.done"
        await "$name.guest.done"
        await "$name.host.done"
        echo "$name: ok"
    done <"/tmp/runs.$1"
}
