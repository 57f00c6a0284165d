# What a release states of an image, by the program of the same sources: what it is made of, what is
# booted with a configuration, and what that is measured as.
mkdir "$out"
within "$tools" fsck.erofs --extract="$PWD/root.read" "$image/root.erofs"
"$auditor/cloister-release" bill --image "$image" --source "$source" --root "$PWD/root.read" \
    --output "$out/sbom.spdx.json" >/dev/null
"$auditor/cloister-release" assemble --image "$image" --config "$configuration" \
    --output "$PWD/assembled" >/dev/null
cp assembled/* "$out/"
"$auditor/cloister-release" measure --uki "$out/cloister.efi" --json >"$out/measurements.json"
