# What runs over the bad link: 63 MB in 64 KiB messages, or about LAB_RDMA_BYTES.
runs() {
    local tool role messages=160
    [ -z "${LAB_RDMA_BYTES:-}" ] || messages=$((LAB_RDMA_BYTES / 6 / 65536))
    for role in client server; do
        for tool in write read send; do
            echo "$tool-$role $role ib_${tool}_bw $tool-bw -n $messages -s 65536"
        done
        echo "atomic-$role $role ib_atomic_bw atomic-bw -n 200"
    done
}
