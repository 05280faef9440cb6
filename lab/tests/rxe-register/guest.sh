# The kernel's rxe needs a network device, and no network: a dummy has an address and sends nothing.
set -eu
modprobe dummy
modprobe rdma_rxe
modprobe ib_uverbs
ip link add dummy0 type dummy
ip addr add 10.77.0.1/24 dev dummy0
ip link set dummy0 up
rdma link add rxe0 type rxe netdev dummy0

size=67108864
# By turns: the kernel, we, the kernel.
"$LAB" program register-times rxe0 $size 9
"$LAB" program wayleave bench register --size $size --iterations 9
"$LAB" program register-times rxe0 $size 9
