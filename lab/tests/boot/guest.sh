# The kernel is the lab's, the root is the host's and cannot be written, the share takes what the guest says.
set -eu
uname -srvm
IFS=.- read -r major minor _ < <(uname -r)
((major > 7 || (major == 7 && minor >= 2))) || { echo "the kernel is older than 7.2"; exit 1; }

"$LAB" program boot

# Written here, read here, and never seen by the host: it lies in the memory file system above its root.
echo mark >/usr/lab-mark
[ "$(cat /usr/lab-mark)" = mark ]
[ -e "$LAB_ROOT/Wayleave.slnx" ]
uname -r >"$LAB_SHARE/release"

# Modules come from the kernel's own tree, and the kernel finds its loader.
modprobe vgem
[ -c /dev/udmabuf ]
echo "ok"
