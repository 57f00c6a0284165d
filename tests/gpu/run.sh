#!/usr/bin/env bash
# run.sh [FOLDER]: what needs a GPU: every kernel against its reference, and its speed, as one table.
# FOLDER holds cubins that `make kernels` made; without it they are made first. Where the machine
# reaches no network, make them elsewhere and bring them along.
. "$(dirname "${BASH_SOURCE[0]}")/../../image/lib.sh"

folder=${1:-$repo_dir/build/kernels}
[ $# -gt 0 ] || "$repo_dir/kernels/build.sh" --output "$folder"
cd "$repo_dir"
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
fi
date -u +%Y-%m-%d
# The emulation's own runs stand beside it: a difference is then the GPU's.
exec "$image_dir/cargo.sh" run --release --locked -p cloister-kernels --features cuda \
    --example table -- "$folder"
