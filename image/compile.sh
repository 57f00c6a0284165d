#!/usr/bin/env bash
# compile.sh OUT [CRATE/PROGRAM...]: compiles cloister-agent and verity-init, or the programs named,
# and puts them into the folder OUT.
#
# Runs inside the locked build tree with the network off, and is the one recipe of both ways to the
# programs: rust.sh comes here through enter.sh, nix/ through its own sandbox. Both put the sources
# at /cloister/src, the vendored crates at /cloister/crates, and empty or kept folders at
# /cloister/objects and /cloister/home.

# Reproducibility: an environment of its own. No RUSTFLAGS, CARGO_* or profile of the caller.
if [ "${1-}" != --environment-is-clean ]; then
    exec env -i PATH=/usr/bin HOME=/cloister/home LC_ALL=C.UTF-8 TZ=UTC \
        bash "$0" --environment-is-clean "$@"
fi
shift
set -euo pipefail
umask 022
target=x86_64-unknown-linux-gnu

# Reproducibility: every path that the compiler sees is the same on every machine, as the folders
# stand at fixed places, and those are mapped away as well. No build id. Static, so that no library
# of the root is part of the agent.
flags=(-Ctarget-feature=+crt-static -Clink-arg=-Wl,--build-id=none
    --remap-path-prefix=/cloister/src=src --remap-path-prefix=/cloister/crates=crates
    --remap-path-prefix=/cloister/objects=objects)
export RUSTFLAGS="${flags[*]}"
# Reproducibility: what was compiled before leaves no trace but whole, unchanged crates.
export CARGO_INCREMENTAL=0
export CARGO_HOME=/cloister/home/.cargo CARGO_TARGET_DIR=/cloister/objects

mkdir -p "$CARGO_HOME"
cat >"$CARGO_HOME/config.toml" <<'END'
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "/cloister/crates"
END
cd /cloister/src
out=$1
shift
[ $# -gt 0 ] || set -- cloister-agent/cloister-agent cloister-verity/verity-init
chosen=()
# The crates by name, too: others of the workspace would switch on more of what they share.
for program; do chosen+=(-p "${program%/*}" --bin "${program#*/}"); done
cargo build --offline --locked --release --target "$target" "${chosen[@]}"
for program; do cp "$CARGO_TARGET_DIR/$target/release/${program#*/}" "$out/"; done
