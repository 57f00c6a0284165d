#!/usr/bin/env bash
# cargo.sh ARGUMENTS...: cargo for programs that run on this machine. The host's if there is one;
# else the locked one, whose programs are static, so that they run here as well.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export CARGO_BUILD_TARGET=x86_64-unknown-linux-gnu

if [ -z "${CLOISTER_LOCKED_CARGO:-}" ] && command -v cargo >/dev/null; then
    exec cargo "$@"
fi
vendor=$("$image_dir/vendor.sh")
exec "$image_dir/enter.sh" --tree build --offline --at "$vendor:/cloister-crates" -- \
    env CARGO_HOME="$cache_dir/cargo-home" RUSTFLAGS=-Ctarget-feature=+crt-static cargo \
    --config 'source.crates-io.replace-with="vendored"' \
    --config 'source.vendored.directory="/cloister-crates"' "$@"
