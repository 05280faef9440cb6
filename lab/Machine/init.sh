#!/bin/busybox sh
# The first process of the guest. It lays a writable memory file system over the layers of unpacked packages and the
# host's root, both read-only, and runs the command there. The console (ttyS0) belongs to the kernel; the command has
# ttyS1 and ttyS2.
export PATH=/bin
busybox mkdir -p /proc /sys /dev /ro /layers /rw /host
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs dev /dev

stop() {
    [ -z "$1" ] || echo "lab: $1"
    busybox sync
    busybox poweroff -f
}

busybox ln -s /proc/self/fd /dev/fd
busybox ln -s fd/0 /dev/stdin
busybox ln -s fd/1 /dev/stdout
busybox ln -s fd/2 /dev/stderr

while read -r module; do
    busybox insmod "/modules/$module" || stop "insmod $module failed"
done </modules/list

share=trans=virtio,version=9p2000.L,msize=262144
busybox mount -t 9p -o $share,ro,cache=loose lab-root /ro || stop "no root"
busybox mount -t tmpfs tmpfs /rw
busybox mkdir -p /rw/upper /rw/work
lower=
for layer in 0 1 2; do
    busybox mkdir -p /layers/$layer
    if busybox mount -t 9p -o $share,ro,cache=loose lab-layer$layer /layers/$layer 2>/dev/null; then
        lower=$lower/layers/$layer:
    fi
done
busybox mount -t overlay -o lowerdir=$lower/ro,upperdir=/rw/upper,workdir=/rw/work overlay /host || stop "no overlay"
for folder in proc sys dev; do
    busybox mount -o bind /$folder /host/$folder
done
busybox mkdir -p /host/dev/pts /host/dev/shm
busybox mount -t devpts devpts /host/dev/pts
busybox mount -t tmpfs tmpfs /host/dev/shm
busybox mount -t tmpfs tmpfs /host/run
busybox mount -t debugfs debugfs /host/sys/kernel/debug
busybox mount -t tracefs tracefs /host/sys/kernel/tracing
busybox mkdir -p /host/run/lab
busybox mount -t 9p -o $share,cache=none lab-share /host/run/lab || stop "no share"
busybox ip link set lo up
busybox hostname lab

# The kernel starts its module loader in the first root; send it to the one of the host's root.
printf '#!/bin/busybox sh\nexec /bin/busybox chroot /host /sbin/modprobe "$@"\n' >/modprobe
busybox chmod 755 /modprobe
echo /modprobe >/proc/sys/kernel/modprobe

busybox stty -F /dev/ttyS1 raw -echo
busybox stty -F /dev/ttyS2 raw -echo
echo "lab: up after $(busybox cut -d' ' -f1 /proc/uptime) s, kernel $(busybox uname -r)"
busybox chroot /host /bin/bash /run/lab/command </dev/null >/dev/ttyS1 2>/dev/ttyS2
code=$?
# What is still in the serial lines goes out before the power does.
busybox stty -F /dev/ttyS1 sane
busybox stty -F /dev/ttyS2 sane
echo $code >/host/run/lab/exit
echo "lab: exit $code after $(busybox cut -d' ' -f1 /proc/uptime) s"
stop
