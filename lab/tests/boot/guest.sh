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

# Looking must not load a module. These nodes load theirs when somebody opens them.
mkdir -p /dev/net /dev/vfio
mknod /dev/net/tun c 10 200
mknod /dev/vfio/vfio c 10 196
cut -d ' ' -f 1 /proc/modules | sort >/run/modules
"$LAB" program doctor root
# The one capability lets it read our own program, wherever the clone is; it opens no device for writing.
mkdir -m 777 /dev/shm/nobody
setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search \
    env HOME=/dev/shm/nobody LAB_SHARE=/dev/shm/nobody "$LAB" program doctor nobody
cat /dev/shm/nobody/records.jsonl >>"$LAB_SHARE/records.jsonl"
cut -d ' ' -f 1 /proc/modules | sort | diff /run/modules -
echo "ok"
