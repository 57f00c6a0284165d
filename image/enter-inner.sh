# The inside of enter.sh: runs in a fresh mount namespace, lays out the new root and moves into it.
# usage: enter-inner.sh TREE WORKING-DIRECTORY NUMBER-OF-PLACES FOLDER:PATH... CMD...
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
tree=$1 cwd=$2 number=$3
shift 3
places=("${@:1:number}")
shift "$number"

mount --make-rprivate /
# The new root is a small tmpfs on a mount point that the tree itself has.
root=$tree/mnt
mount -t tmpfs -o mode=0755,size=1m cloister-root "$root"

# Reproducibility: no hidden folder of /, where a HOME of / has its settings: cargo would read them.
for path in /*; do
    name=${path#/}
    case $name in
    usr | bin | sbin | lib | lib32 | lib64 | libx32 | etc | lost+found | '*') continue ;;
    esac
    if [ -L "$path" ]; then
        cp -P "$path" "$root/$name"
    elif [ -d "$path" ]; then
        mkdir "$root/$name"
        mount --rbind "$path" "$root/$name"
    fi
done
mkdir "$root/usr" "$root/etc" "$root/.old"
for dir in usr etc; do
    mount --bind "$tree/$dir" "$root/$dir"
done
for link in bin sbin lib lib64; do
    if [ -e "$tree/usr/$link" ]; then ln -s "usr/$link" "$root/$link"; fi
done
for file in resolv.conf hosts; do
    if [ -r "/etc/$file" ]; then mount --bind "$(readlink -f "/etc/$file")" "$root/etc/$file"; fi
done

for place in "${places[@]}"; do
    mkdir -p "$root${place#*:}"
    mount --bind "${place%%:*}" "$root${place#*:}"
done

cd "$root"
pivot_root . .old
# From here on every program comes from the tree.
export PATH=/usr/bin:/usr/sbin LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
unset LD_LIBRARY_PATH LD_PRELOAD PYTHONPATH PYTHONHOME
hash -r
umount -l /.old
rmdir /.old
cd "$cwd"
command -v "$1" >/dev/null || {
    printf 'cloister: the tree has no program %s\n' "$1" >&2
    printf '          its programs: ls %s/usr/bin; they come from image/deb.lock\n' "$tree" >&2
    exit 127
}
exec "$@"
