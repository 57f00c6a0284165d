# unpack.sh INTO: unpacks packages into INTO as a tree of programs; reads lines "NAME FILE", in that
# order. Shared by tree.sh and nix/, so it keeps to what a busybox's shell knows as well.
#
# None of the packages' scripts is run. What a script would have made and we need is written out by
# hand below.
set -euo pipefail
# Reproducibility: the modes of what is made here.
umask 022
into=$1

# dpkg-deb where there is one (a busybox has another of that name); else what it would have read.
contents() {
    if dpkg-deb --version >/dev/null 2>&1; then
        dpkg-deb --fsys-tarfile "$1"
    else
        ar p "$1" data.tar.xz | unxz
    fi
}

while read -r name file; do
    if [ -t 2 ]; then printf '\r\033[Kunpacking %s' "$name" >&2; fi
    contents "$file" | tar -x --no-same-owner -C "$into" -f - || {
        printf 'cloister: cannot unpack %s\n' "$name" >&2
        exit 1
    }
done
if [ -t 2 ]; then printf '\r\033[K' >&2; fi

# Nothing in a tree needs to change who it runs as.
find "$into" -xdev -type f \( -perm -4000 -o -perm -2000 \) -exec chmod ug-s {} +
for part in doc man locale info; do rm -rf "$into/usr/share/$part"; done
for dir in mnt etc root tmp var/tmp proc sys dev run; do mkdir -p "$into/$dir"; done
printf '%s\n' 'root:x:0:0:root:/root:/bin/bash' \
    'nobody:x:65534:65534:nobody:/nonexistent:/bin/false' >"$into/etc/passwd"
printf '%s\n' 'root:x:0:' 'nogroup:x:65534:' >"$into/etc/group"
# Mount points for the host's own files; see enter.sh.
: >"$into/etc/resolv.conf"
: >"$into/etc/hosts"
# The bundle of certificates, with which a machine without cargo fetches crates.
if [ -d "$into/usr/share/ca-certificates" ]; then
    mkdir -p "$into/etc/ssl/certs"
    cat "$into"/usr/share/ca-certificates/mozilla/*.crt >"$into/etc/ssl/certs/ca-certificates.crt"
fi
# dpkg's alternatives.
if [ -e "$into/usr/bin/mawk" ]; then ln -sf mawk "$into/usr/bin/awk"; fi
if [ -e "$into/usr/bin/gcc" ]; then ln -sf gcc "$into/usr/bin/cc"; fi
if [ ! -e "$into/usr/bin/sh" ] && [ -e "$into/usr/bin/bash" ]; then
    ln -s bash "$into/usr/bin/sh"
fi
