# enter.sh TREE COMMAND...: runs a command with /usr and /etc of a locked tree, the store, the build
# folder and /dev, and nothing else. The first process in namespaces of its own: see start.sh.
# PLACES, in the environment, holds FOLDER:PATH pairs: each FOLDER is to stand at PATH, too.
set -euo pipefail
tree=$1
shift
root=$NIX_BUILD_TOP/root
mkdir -p "$root"
mount -t tmpfs -o mode=0755 root "$root"
cd "$root"
mkdir -p usr etc root tmp var/tmp run proc sys dev nix/store old ".$NIX_BUILD_TOP"
chmod 1777 tmp var/tmp
for link in bin sbin lib lib64; do
    if [ -e "$tree/usr/$link" ]; then ln -s "usr/$link" "$link"; fi
done
mount -o bind "$tree/usr" usr
mount -o bind "$tree/etc" etc
mount -o rbind /nix/store nix/store
mount -o rbind /dev dev
mount -o bind "$NIX_BUILD_TOP" ".$NIX_BUILD_TOP"
mount -t proc proc proc
for place in ${PLACES-}; do
    mkdir -p ".${place#*:}"
    mount -o bind "${place%%:*}" ".${place#*:}"
done
# A change of root by chroot would not do: in one, the kernel refuses mkosi its user namespaces.
pivot_root . old
cd /
umount -l old
rmdir old
cd "$NIX_BUILD_TOP"
exec env -i PATH=/usr/bin:/usr/sbin HOME=/root LC_ALL=C.UTF-8 TZ=UTC "$@"
