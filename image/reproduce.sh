#!/usr/bin/env bash
# reproduce.sh [--profile NAME] [--pack]: builds the image as it is built here, then once more as a
# stranger would, and compares the bits of every file.
#   --pack   the stranger gets the compiled programs and does the rest: seconds, not minutes
#
# The stranger has another path, user, umask, time zone, language, home, number of processors, file
# system, name of the machine and day; a checkout with other modes and times; an environment full of
# traps; and none of the first build's results. Shared are the packages, which are checked by hash,
# and what was unpacked of them and of the crates. stranger.sh is the stranger's side of it, and says
# what it could not change: the file system where memory is short, the user where one may not.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

profile=production pack=''

main() {
    local usage='usage: image/reproduce.sh [--profile demo|production] [--pack]'
    while [ $# -gt 0 ]; do
        case $1 in
        --profile) profile=${2-}; shift 2 || die "--profile needs a name" "$usage" ;;
        --pack) pack=1; shift ;;
        *) die "unknown argument: $1" "$usage" ;;
        esac
    done
    # The trees are linked, not copied, so this one must lie beside them.
    mkdir -p "$cache_dir"
    abroad=$(mktemp -d "$cache_dir/stranger.XXXXXX")
    work=$(mktemp -d "${TMPDIR:-/tmp}/cloister-twice.XXXXXX")
    trap 'chmod -R u+rwX "$work"; rm -rf "$work" "$abroad"' EXIT
    # Both copies are made now: somebody may go on working here.
    checkout "$work/a"
    checkout "$work/b"
    first
    trees
    second
    compare
}

# As it is built here; for --pack, as it was: what is in the cache is taken.
first() {
    say "first build"
    local fresh=--fresh
    if [ -n "$pack" ]; then fresh=''; fi
    CLOISTER_CACHE=$cache_dir "$work/a/image/build.sh" --profile "$profile" \
        --output "$work/out-a" $fresh
}

# The trees once more, of links to the same files, with a clock that goes ahead.
trees() {
    local set tree
    offset
    for set in tools build; do
        tree=$("$image_dir/tree.sh" "$set")
        cp -al "$tree" "$abroad/"
        another_day "$abroad/$(basename "$tree")"
    done
    # Some crates hold files that only their owner may read.
    chmod -R go+rX "$("$image_dir/vendor.sh")"
}

# The stranger's build starts ten seconds before a leap day, at least 400 days from now.
offset() {
    local now year start
    now=$(date +%s)
    year=$(($(date +%Y) / 4 * 4))
    while start=$(date -u -d "$year-02-28 23:59:50" +%s) && [ "$start" -lt $((now + 34560000)) ]; do
        year=$((year + 4))
    done
    offset_s=$((start - now))
    "$image_dir/enter.sh" --tree build -- cc -O2 -Wall -shared -fPIC -nostdlib \
        -DOFFSET_S="${offset_s}L" -o "$abroad/clock.so" "$work/b/image/stranger.c"
}

# The environment is no way to give all programs a clock: it is cleaned, by us and by mkosi. The
# loader reads a list of libraries from /etc, which mkosi's sandbox does not show; in this copy of
# the loader the list stands in /usr.
another_day() {
    local tree=$1 loader=usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
    sed -i 's#/etc/ld\.so\.preload#/usr/ld.so.preload#' "$tree/$loader"
    cp "$abroad/clock.so" "$tree/usr/lib/stranger.so"
    echo /usr/lib/stranger.so >"$tree/usr/ld.so.preload"
}

second() {
    local names=(unshare --mount --uts) programs=''
    if [ -n "$pack" ]; then programs=$(basename "$("$work/a/image/rust.sh")"); fi
    say "second build, by a stranger, $((offset_s / 86400)) days from now"
    if [ "$(id -u)" != 0 ]; then names+=(--user --map-root-user); fi
    chmod 755 "$work" "$abroad"
    mkdir "$work/kept" "$work/other" "$work/out-b"
    "${names[@]}" bash "$work/b/image/stranger.sh" "$work" "$cache_dir" "$(basename "$abroad")" \
        "$profile" "$programs" || die "the second build failed" "its message stands above"
}

# The files that git knows, as they lie here.
checkout() {
    mkdir -p "$1"
    (cd "$repo_dir" && git ls-files --cached --others --exclude-standard -z |
        while read -r -d '' file; do
            if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi
        done | tar -c --null -T - | tar -x -C "$1")
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
