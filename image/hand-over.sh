#!/usr/bin/env bash
# hand-over.sh PARTS PROFILE OUTPUT: puts the parts and the profile's command line into OUTPUT, with
# the list of their hashes. The last step of both ways to the image.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

main() {
    local parts=$1 profile=$2 output=$3
    # Gone first: a folder without the list was not completed, and a bill was of another image.
    rm -f "$output/SHA256SUMS" "$output/sbom.spdx.json"
    # New files: what somebody has open, or linked elsewhere, stays as it is.
    cp --remove-destination "$parts"/* "$output/"
    words "$image_dir/cmdline" "$image_dir/profiles/$profile/cmdline" >"$output/cmdline"
    printf '%s\n' "$profile" >"$output/profile"
    # Reproducibility: not the order of a folder.
    (cd "$output" && sha256sum -- $(cd "$parts" && ls) cmdline profile | sort -k2) >"$output/.sums"
    mv "$output/.sums" "$output/SHA256SUMS"
}

# The words of files with comments, on one line.
words() { sed 's/#.*//' "$@" | xargs; }

main "$@"
