#!/usr/bin/env bash
# instrument.sh RUSTC ARGUMENTS...: compiles a crate of ours so that libFuzzer sees which branches
# ran and what was compared. cargo calls it as RUSTC_WORKSPACE_WRAPPER, so crates of others stay as
# they are. A stable compiler does it: these are passes of LLVM's, and cargo-fuzz names the same.
set -euo pipefail
coverage=-Cllvm-args=-sanitizer-coverage
exec "$@" -Cpasses=sancov-module "$coverage-level=4" "$coverage-inline-8bit-counters" \
    "$coverage-pc-table" "$coverage-trace-compares" \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0
