#!/usr/bin/env bash
# tree.sh SET: makes the unpacked tree of a set (tools, build, nix) from the lock, prints where it
# lies.
#
# The packages are only unpacked, by unpack.sh: none of their scripts is run. A tree is complete or
# absent: it is made beside its place and renamed.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

main() {
    local set=${1-} tree
    case $set in
    tools | build | nix) ;;
    *) die "there is no tree '$set'" "usage: image/tree.sh tools|build|nix" ;;
    esac
    check_lock
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
    packages "$set" | bash "$image_dir/unpack.sh" "$new" ||
        die "the $set tree could not be unpacked" \
            "if the disk is not full: rm -r $cache_dir/debs and try again"
    settle "$new"
    mv "$new" "$tree"
    # Trees of older locks are no longer reachable from this checkout; others may use them, so only
    # name them.
    say "the $set tree is ready: $tree ($(du -sm "$tree" | cut -f1) MiB)"
}

# base-files goes first: it brings /bin, /lib and the like as links into /usr.
packages() {
    lock_rows "$1" | awk '{ print ($1 == "base-files" ? 0 : 1), $1, $4 }' | sort |
        while read -r _ name sha; do printf '%s %s\n' "$name" "$(deb_file "$sha")"; done
}

main "$@"
