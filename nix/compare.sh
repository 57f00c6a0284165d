#!/usr/bin/env bash
# compare.sh: builds the image both ways, in both profiles, and compares the bits of every file;
# then has Nix do every step once more, and try to build with its sandbox off.
. "$(dirname "${BASH_SOURCE[0]}")/../image/lib.sh"

main() {
    local profile
    work=$(mktemp -d "${TMPDIR:-/tmp}/cloister-ways.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    for profile in production demo; do
        "$image_dir/build.sh" --profile "$profile" --output "$work/one/$profile"
        "$repo_dir/nix/build.sh" --profile "$profile" --output "$work/two/$profile"
        same "$profile"
    done
    "$repo_dir/nix/build.sh" --output "$work/again" --rebuild
    without_sandbox
    say "both ways give the same bits"
}

# Of each file: the lists of hashes agree, and so does what lies there.
same() {
    local one=$work/one/$1 two=$work/two/$1 differ
    differ=$(diff --recursive --brief "$one" "$two") || {
        printf '%s\n' "$differ" >&2
        diff "$one/manifest.json" "$two/manifest.json" | sed -n 1,10p >&2 || true
        die "the two ways differ in profile $1" "the files above are where to look first"
    }
    (cd "$two" && sha256sum --check --quiet SHA256SUMS) || die "SHA256SUMS is wrong" "see above"
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
