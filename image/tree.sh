#!/usr/bin/env bash
# tree.sh SET: makes the unpacked tree of a set (tools, build) from the lock and prints where it
# lies.
#
# The packages are only unpacked: none of their scripts is run. What a script would have made and we
# need is written out by hand below. A tree is complete or absent: it is made beside its place and
# renamed.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

main() {
    local set=${1-} tree
    case $set in
    tools | build) ;;
    *) die "there is no tree '$set'" "usage: image/tree.sh tools|build" ;;
    esac
    tree=$(tree_dir "$set")
    if [ ! -e "$tree" ]; then make_tree "$set" "$tree"; fi
    printf '%s\n' "$tree"
}

make_tree() {
    local set=$1 tree=$2 new=$2.new
    # Fail before the downloads where the tree could never be entered.
    command -v dpkg-deb >/dev/null ||
        die "dpkg-deb is missing" "this needs Debian 12 or later, or a system made from it"
    [ "$(uname -m)" = x86_64 ] || die "this machine is not x86-64" "build on one that is"
    "$image_dir/fetch.sh" "$set"
    open_lock 8 .tree-lock "unpacks a tree"
    [ ! -e "$tree" ] || return 0
    need_space "$cache_dir" 1200
    say "unpacking the $set tree"
    rm -rf "$new"
    mkdir -p "$new"
    unpack_all "$set" "$new"
    # Nothing in a tree needs to change who it runs as.
    find "$new" -xdev -type f -perm /6000 -exec chmod ug-s {} +
    by_hand "$new"
    mv "$new" "$tree"
    # Trees of older locks are no longer reachable from this checkout; others may use them, so only
    # name them.
    say "the $set tree is ready: $tree ($(du -sm "$tree" | cut -f1) MiB)"
}

# base-files goes first: it brings /bin, /lib and the like as links into /usr.
unpack_all() {
    local set=$1 into=$2
    lock_rows "$set" | awk '{ print ($1 == "base-files" ? 0 : 1), $1, $4 }' | sort |
        while read -r _ name sha; do
        tick "unpacking $name"
        dpkg-deb --fsys-tarfile "$(deb_file "$sha")" |
            tar -x -p --no-same-owner -C "$into" \
                --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
                --exclude='./usr/share/locale/*' --exclude='./usr/share/info/*' ||
            die "cannot unpack $name" "if the disk is not full: rm -r $cache_dir/debs and try again"
    done
    tick_end
}

# The few files that maintainer scripts would have made.
by_hand() {
    local t=$1
    mkdir -p "$t/mnt" "$t/etc" "$t/root" "$t/tmp" "$t/var/tmp" "$t/proc" "$t/sys" "$t/dev" "$t/run"
    printf '%s\n' 'root:x:0:0:root:/root:/bin/bash' \
        'nobody:x:65534:65534:nobody:/nonexistent:/bin/false' >"$t/etc/passwd"
    printf '%s\n' 'root:x:0:' 'nogroup:x:65534:' >"$t/etc/group"
    # Mount points for the host's own files; see enter.sh.
    : >"$t/etc/resolv.conf"
    : >"$t/etc/hosts"
    # The bundle of certificates, with which a machine without cargo fetches crates.
    if [ -d "$t/usr/share/ca-certificates" ]; then
        mkdir -p "$t/etc/ssl/certs"
        cat "$t"/usr/share/ca-certificates/mozilla/*.crt >"$t/etc/ssl/certs/ca-certificates.crt"
    fi
    # dpkg's alternatives.
    if [ -e "$t/usr/bin/mawk" ]; then ln -sf mawk "$t/usr/bin/awk"; fi
    if [ -e "$t/usr/bin/gcc" ]; then ln -sf gcc "$t/usr/bin/cc"; fi
    if [ ! -e "$t/usr/bin/sh" ] && [ -e "$t/usr/bin/bash" ]; then ln -s bash "$t/usr/bin/sh"; fi
}

main "$@"
