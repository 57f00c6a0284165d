#!/usr/bin/env bash
# build.sh --profile NAME --output DIR: builds the image of a profile.
#
# Fetches what the lock names, compiles the agent and the initrd's init, lays out the root, packs it
# with mkosi under dm-verity, and writes the parts that `cloister-release assemble` puts together.
# Only fetching uses the network. The result is kept under a key made of everything that it was made
# from. --fresh packs it again all the same. --programs takes the two programs from a folder, where
# they were compiled before.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

profile='' output='' fresh='' programs=''

main() {
    arguments "$@"
    mkdir -p "$output" 2>/dev/null ||
        die "cannot create $output" "choose another folder with --output"
    need_space "$output" 64 "choose another folder with --output"
    need_space "$cache_dir" 1024
    if changed=$(git -C "$repo_dir" status --porcelain 2>/dev/null) && [ -n "$changed" ]; then
        say "this checkout has changes that are in no commit: nobody else can build this"
    fi
    tools=$("$image_dir/tree.sh" tools)
    "$image_dir/tree.sh" build >/dev/null
    "$image_dir/fetch.sh" image
    [ -n "$programs" ] || programs=$("$image_dir/rust.sh")
    local key kept
    key=$(inputs | hash_of)
    kept=$cache_dir/image-${key:0:16}
    open_lock 7 .image-lock "builds an image"
    if [ -n "$fresh" ]; then rm -rf "$kept"; fi
    if [ ! -e "$kept" ]; then make_image "$kept"; fi
    "$image_dir/hand-over.sh" "$kept" "$profile" "$output"
    say "the image of profile $profile is in $output ($(du -sm "$output" | cut -f1) MiB)"
}

arguments() {
    local usage='usage: image/build.sh --profile demo|production --output DIR [--fresh]'
    while [ $# -gt 0 ]; do
        case $1 in
        --profile) profile=${2-}; shift 2 || die "--profile needs a name" "$usage" ;;
        --output) output=${2-}; shift 2 || die "--output needs a folder" "$usage" ;;
        --fresh) fresh=1; shift ;;
        --programs) programs=${2-}; shift 2 || die "--programs needs a folder" "$usage" ;;
        *) die "unknown argument: $1" "$usage" ;;
        esac
    done
    [ -n "$output" ] || die "no --output given" "$usage"
    [[ $profile =~ ^[a-z]+$ ]] && [ -d "$image_dir/profiles/$profile" ] ||
        die "there is no profile '$profile'" "there are: $(ls "$image_dir/profiles" | xargs)"
}

# Everything that decides the parts that the profiles share. A file's name, its x bit, its content.
inputs() {
    printf '%s\n' "$tools"
    hash_of <"$programs/cloister-agent"
    hash_of <"$programs/verity-init"
    lock_rows image
    cd "$repo_dir"
    find mkosi.conf image/repart image/rootfs image/root.list image/initrd.modules image/*.py \
        image/{pack,lib,enter,enter-inner,build}.sh ! -type d | sort | while read -r file; do
        if [ -L "$file" ]; then
            printf 'link %s %s\n' "$file" "$(readlink "$file")"
        else
            printf '%s %s\n' "$([ -x "$file" ] && echo x || echo -)" "$file"
            hash_of <"$file"
        fi
    done
}

# The recipe itself is pack.sh, inside the tools tree. The parts are complete or absent.
make_image() {
    local kept=$1
    # What a build that was killed has left: the lock is ours, so nobody works there.
    rm -rf "$cache_dir"/work.??????
    work=$(mktemp -d "$cache_dir/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    "$image_dir/enter.sh" --offline -- bash "$image_dir/pack.sh" "$cache_dir/debs" "$programs" \
        "$work" "$work/parts" 7>&- || { full; exit 1; }
    settle "$work/parts"
    mv "$work/parts" "$kept"
}

# Says so if the disk is full: what failed for want of space gives other reasons.
full() {
    local free
    free=$(df -Pm "$cache_dir" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge 16 ] || die "$cache_dir is full: $free MiB free" \
        "free some space, or set CLOISTER_CACHE to another disk; the next build starts afresh"
}

main "$@"
