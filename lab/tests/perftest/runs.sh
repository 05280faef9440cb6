# What runs, in this order: NAME ROLE TOOL OURS ARGUMENT...; the role is that of our side. Sourced by both sides.
runs() {
    local tool ours arguments exchange role
    for exchange in "" "-R"; do
        for tool in write read send atomic; do
            [ $tool = atomic ] && arguments="-n 200" || arguments="-n 40 -s 65536"
            for role in client server; do
                echo "$tool$exchange-$role $role ib_${tool}_bw $tool-bw $arguments $exchange"
                # All sizes; of an atomic there is one.
                [ $tool = atomic ] || echo "all-$tool$exchange-$role $role ib_${tool}_bw $tool-bw -a -n 5 $exchange"
            done
        done
    done
    # Four queue pairs of one run.
    for exchange in "" "-R"; do
        for tool in write read send; do
            for role in client server; do
                echo "$tool-four$exchange-$role $role ib_${tool}_bw $tool-bw -n 20 -s 65536 -q 4 $exchange"
            done
        done
    done
    echo "both-client client ib_write_bw write-bw -b -n 40 -s 65536"
    echo "both-server server ib_send_bw send-bw -b -n 40 -s 65536"
    for tool in write read send; do
        echo "$tool-lat-client client ib_${tool}_lat $tool-lat -n 100 -s 64"
        echo "$tool-lat-server server ib_${tool}_lat $tool-lat -n 100 -s 64"
    done
    for role in client server; do
        # What is lost is gone, and a tool that takes SENDs waits for it: few and short ones.
        echo "write-uc-$role $role ib_write_bw write-bw -c UC -n 20 -s 4096"
        echo "send-uc-$role $role ib_send_bw send-bw -c UC -n 20 -s 4096 -t 8"
        echo "send-ud-$role $role ib_send_bw send-bw -c UD -n 20 -s 4096 -t 8"
        echo "send-lat-uc-$role $role ib_send_lat send-lat -c UC -n 100 -s 64"
        echo "send-lat-ud-$role $role ib_send_lat send-lat -c UD -n 100 -s 64"
    done
    for role in client server; do
        echo "pingpong-$role $role ibv_rc_pingpong rc-pingpong -n 100 -s 4096"
    done
}
