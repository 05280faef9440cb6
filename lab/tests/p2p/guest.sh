# Every drive with controller memory as provider, every drive as client. The drives appear some time after their driver.
set -eu
modprobe nvme
for _ in $(seq 100); do
    [ "$(ls /dev/nvme*n1 2>/dev/null | wc -l)" = 7 ] && break
    sleep 0.1
done
# A pool answers the same wherever its drive is: one boot asks it.
if [ "$LAB_BOOT" = unlisted ]; then
    "$LAB" program p2p pool
else
    "$LAB" program p2p
fi
