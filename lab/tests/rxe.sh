# Functions for scripts of guests that need the kernel's rxe.

# rxe0 over the network card whose other end is the host; addresses of IPv4 and IPv6, frames of an MTU of 4096.
rxe_over_network() {
    modprobe virtio_net
    modprobe rdma_rxe
    modprobe ib_uverbs
    ip link set eth0 mtu 4500
    ip addr add "$LAB_GUEST/24" dev eth0
    ip -6 addr add "$LAB_GUEST6/64" dev eth0 nodad
    ip link set eth0 up
    rdma link add rxe0 type rxe netdev eth0
}

# Two namespaces a and b, joined by a virtual wire va-vb, with rxea and rxeb on its ends: 10.77.0.1 and .2, fd77::1
# and ::2.
rxe_over_veth() {
    modprobe veth
    modprobe rdma_rxe
    modprobe ib_uverbs
    ip netns add a
    ip netns add b
    ip link add va type veth peer name vb
    ip link set va address 02:00:00:00:00:0a netns a
    ip link set vb address 02:00:00:00:00:0b netns b
    for side in a b; do
        [ $side = a ] && number=1 || number=2
        ip -n $side link set v$side mtu 4200
        ip -n $side addr add 10.77.0.$number/24 dev v$side
        ip -n $side addr add fd77::$number/64 dev v$side nodad
        ip -n $side link set lo up
        ip -n $side link set v$side up
        ip netns exec $side rdma link add rxe$side type rxe netdev v$side
    done
    for family in "10.77.0." "fd77::"; do
        ip -n a neigh replace ${family}2 lladdr 02:00:00:00:00:0b dev va nud permanent
        ip -n b neigh replace ${family}1 lladdr 02:00:00:00:00:0a dev vb nud permanent
    done
}
