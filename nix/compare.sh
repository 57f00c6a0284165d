#!/usr/bin/env bash
# compare.sh: builds the image both ways, in both profiles, states it both ways (bill of materials,
# UKI, disk, measurements), and compares the bits of every file; then has Nix do every step once more
# (but the seed and the sources' copies), and try to build with its sandbox off.
. "$(dirname "${BASH_SOURCE[0]}")/../image/lib.sh"

main() {
    local profile
    "$image_dir/cargo.sh" build --quiet --locked -p cloister-release
    work=$(mktemp -d "${TMPDIR:-/tmp}/cloister-ways.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    for profile in production demo; do
        "$image_dir/build.sh" --profile "$profile" --output "$work/one/$profile"
        "$repo_dir/nix/build.sh" --profile "$profile" --output "$work/two/$profile"
        (cd "$work/two/$profile" && sha256sum --check --quiet SHA256SUMS) ||
            die "SHA256SUMS is wrong" "see above"
        same "$profile"
        state "$profile"
        "$repo_dir/nix/build.sh" --profile "$profile" --stated --output "$work/two/$profile-stated"
        same "$profile-stated"
    done
    "$repo_dir/nix/build.sh" --stated --output "$work/again" --rebuild
    "$repo_dir/nix/build.sh" -- build --no-link --rebuild 'SOURCE#image-demo' 'SOURCE#stated-demo'
    without_sandbox
    say "both ways give the same bits"
}

# What a release states of the image of a profile, by the program as this machine compiles it.
state() {
    local program=$repo_dir/target/x86_64-unknown-linux-gnu/debug/cloister-release
    local image=$work/one/$1 stated=$work/one/$1-stated
    "$program" assemble --image "$image" --config "$repo_dir/nix/site.toml" --output "$stated" \
        >/dev/null
    "$program" bill --image "$image" --source "$repo_dir" --output "$stated/sbom.spdx.json" \
        >/dev/null
    "$program" measure --uki "$stated/cloister.efi" --json >"$stated/measurements.json"
}

# same FOLDER: of each file, what lies there.
same() {
    local one=$work/one/$1 two=$work/two/$1 differ
    differ=$(diff --recursive --brief "$one" "$two") || {
        printf '%s\n' "$differ" >&2
        diff "$one/manifest.json" "$two/manifest.json" 2>/dev/null | sed -n 1,10p >&2 || true
        die "the two ways differ in $1" "the files above are where to look first"
    }
    say "both ways give the same $1: $(cd "$two" && echo *)"
}

# The probe must notice: an absent sandbox is the one fault that would pass for success. With the
# locked Nix, as one with a daemon would not let us.
without_sandbox() {
    export CLOISTER_LOCKED_NIX=1
    "$repo_dir/nix/build.sh" -- build --no-link 'SOURCE#probe'
    if "$repo_dir/nix/build.sh" -- build --no-link --option sandbox false --rebuild \
        'SOURCE#probe' >"$work/log" 2>&1; then
        die "a build with the sandbox off was not refused" "see nix/probe.sh"
    fi
    grep -q "Nix's sandbox is off" "$work/log" || {
        tail -n 20 "$work/log" >&2
        die "a build with the sandbox off failed for another reason" "it stands above"
    }
}

main "$@"
