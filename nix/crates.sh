# Unpacks the crates of Cargo.lock, as `cargo vendor --versioned-dirs` would. cargo compares the
# checksum with Cargo.lock; those of single files may be absent.
mkdir "$out"
while read -r name sha256 file; do
    tar -xz --no-same-owner -f "$file" -C "$out"
    printf '{"files":{},"package":"%s"}' "$sha256" >"$out/$name/.cargo-checksum.json"
done <"$cratesPath"
