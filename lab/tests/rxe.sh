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
