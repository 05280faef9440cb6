# What runs over the bad link. Sourced by both sides.
runs() {
    local tool role
    for role in client server; do
        for tool in write read send; do
            echo "$tool-$role $role ib_${tool}_bw $tool-bw -n 160 -s 65536"
        done
        echo "atomic-$role $role ib_atomic_bw atomic-bw -n 200"
    done
}
