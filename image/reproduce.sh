#!/usr/bin/env bash
# reproduce.sh [--profile NAME]: builds the image twice, as two people would, and compares the bits.
#
# The second build has another path, umask, time zone, language, home, number of processors and
# file modes, an empty folder for compiled objects, and none of the first one's results. Only the
# packages, the unpacked trees and the crates are shared: those are checked by hash.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

profile=production

main() {
    [ "${1-}" != --profile ] || profile=$2
    work=$(mktemp -d "${TMPDIR:-/tmp}/cloister-twice.XXXXXX")
    trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
    "$image_dir/tree.sh" tools >/dev/null
    "$image_dir/tree.sh" build >/dev/null
    "$image_dir/vendor.sh" >/dev/null
    # Both copies are made now: somebody may go on working here.
    checkout "$work/a"
    (umask 077 && checkout "$work/other/checkout with a space/cloister")
    first
    second
    compare
}

# As it would be built here.
first() {
    say "first build"
    build "$work/a" "$cache_dir" "$work/out-a"
}

# As somebody else would build it.
second() {
    say "second build"
    local cache=$work/other/.cache/deep/er checkout="$work/other/checkout with a space/cloister"
    mkdir -p "$cache" "$work/other/home"
    ln -s "$cache_dir"/{debs,tools-*,build-*,crates-*} "$cache/"
    # A checkout with odd modes and times.
    find "$checkout" -type f -perm -u+x -exec chmod 700 {} + -o -type f -exec chmod 600 {} +
    find "$checkout" -exec touch -h -d 2001-02-03 {} +
    ln -s /dev/null "$work/other/home/.bashrc"
    (
        umask 077
        export HOME=$work/other/home TZ=Asia/Tokyo LANG=de_DE.UTF-8 LC_ALL=C SOURCE_DATE_EPOCH=1
        export CARGO_ENCODED_RUSTFLAGS=-Cdebuginfo=2 RUSTFLAGS=-Cdebuginfo=2 CARGO_BUILD_JOBS=1
        build "$checkout" "$cache" "$work/out-b" taskset --cpu-list 0
    )
}

# The files that git knows, as they lie here.
checkout() {
    mkdir -p "$1"
    (cd "$repo_dir" && git ls-files --cached --others --exclude-standard -z |
        while read -r -d '' file; do
            if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi
        done | tar -c --null -T - | tar -x -C "$1")
}

build() {
    local tree=$1 cache=$2 out=$3
    shift 3
    CLOISTER_CACHE=$cache "$@" "$tree/image/build.sh" --profile "$profile" --output "$out" --fresh
}

compare() {
    if cmp -s "$work/out-a/SHA256SUMS" "$work/out-b/SHA256SUMS"; then
        cat "$work/out-a/SHA256SUMS"
        say "both builds have the same bits"
        return
    fi
    diff "$work/out-a/SHA256SUMS" "$work/out-b/SHA256SUMS" >&2 || true
    # The manifest names the first file of the root that differs, and where it came from.
    diff "$work/out-a/manifest.json" "$work/out-b/manifest.json" | sed -n 1,10p >&2 || true
    die "the two builds differ" "the files above are where to look first"
}

main "$@"
