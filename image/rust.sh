#!/usr/bin/env bash
# rust.sh: builds the programs that stand in the image, cloister-agent and verity-init, and prints
# the folder with them.
# rust.sh --stage DIR [ROOM...]: only lays out in DIR the sources that they are made of, for nix/;
# or those of other rooms.
#
# With the locked compiler, from vendored crates, the network off. The result is kept under a key
# made of everything that it was made from, so with nothing changed this takes a moment.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The rooms whose code goes into the two programs.
read -ra rooms <"$image_dir/rooms"

main() {
    local key out into
    if [ "${1-}" = --stage ]; then
        into=$2
        shift 2
        [ $# = 0 ] || rooms=("$@")
        stage "$into"
        return
    fi
    key=$(inputs | hash_of)
    out=$cache_dir/programs-${key:0:16}
    if [ ! -e "$out" ]; then make_programs "$out"; fi
    printf '%s\n' "$out"
}

# Everything that decides the result: sources, manifests, the lock of crates, the compiler, this
# script.
inputs() {
    cd "$repo_dir"
    sources | while read -r file; do printf '%s  %s\n' "$(hash_of <"$file")" "$file"; done
    tree_dir build
}

sources() {
    {
        printf '%s\n' Cargo.lock image/rooms image/{compile,rust,vendor,lib,enter,enter-inner}.sh
        manifests
        find "${rooms[@]}" -name target -prune -o -type f -path '*/src/*' -print
        find "${rooms[@]}" -maxdepth 1 -name build.rs
        # What a crate takes in with include_str! from beside its src.
        find "${rooms[@]}" -path release/machines/\*.toml
    } | sort -u
}

# Those of the workspace.
manifests() {
    find . -maxdepth 3 \( -name target -o -name build -o -name '.?*' \) -prune \
        -o -name Cargo.toml -printf '%P\n'
}

make_programs() {
    local out=$1 vendor work
    vendor=$("$image_dir/vendor.sh")
    need_space "$cache_dir" 2048
    open_lock 7 .rust-lock "compiles the agent"
    [ ! -e "$out" ] || return 0
    work=$cache_dir/rust-work
    rm -rf "$work/src"
    mkdir -p "$work/src" "$work/home"
    stage "$work/src"
    # What was compiled of the crates is kept between builds with the same compiler and flags.
    local objects
    objects=$({ tree_dir build; cat "$image_dir/compile.sh"; } | hash_of)
    objects=$cache_dir/objects-${objects:0:16}
    mkdir -p "$objects"
    say "compiling cloister-agent and verity-init with the network off"
    rm -rf "$out.new"
    mkdir -p "$out.new"
    quietly "$cache_dir/rust.log" "$image_dir/enter.sh" --tree build --offline \
        --at "$work/src:/cloister/src" --at "$vendor:/cloister/crates" \
        --at "$objects:/cloister/objects" --at "$work/home:/cloister/home" -- \
        bash "$image_dir/compile.sh" "$out.new" 7>&- ||
        die "the programs do not compile" "the whole output is in $cache_dir/rust.log"
    settle "$out.new"
    mv "$out.new" "$out"
}

# The rooms as they are, and of the others only the manifest with empty programs: cargo wants the
# workspace whole.
stage() {
    local into=$1 file room
    cd "$repo_dir"
    sources | while read -r file; do
        mkdir -p "$into/$(dirname "$file")"
        cp "$file" "$into/$file"
    done
    for file in $(manifests | grep /); do
        room=$(dirname "$file")
        case " ${rooms[*]} " in *" $room "*) continue ;; esac
        mkdir -p "$into/$room/src/bin"
        : >"$into/$room/src/lib.rs"
        # Every target that the manifest names must be there.
        for path in $(sed -nE 's/^path *= *"([^"]*\.rs)".*/\1/p' "$file") $(bin_names "$file"); do
            mkdir -p "$into/$room/$(dirname "$path")"
            echo 'fn main() {}' >"$into/$room/$path"
        done
    done
    # The copies are as new as this build: cargo goes by times, and would keep what it compiled from
    # an older content if they were not. Crates go by their checksum and are kept.
}

# src/bin/NAME.rs for each [[bin]] of a manifest.
bin_names() {
    awk -F'"' '
        /^\[/ { kind = $0 }
        kind == "[[bin]]" && /^name/ { print "src/bin/" $2 ".rs" }
    ' "$1"
}

main "$@"
