#!/usr/bin/env bash
# run.sh SECONDS [TARGET...]: every fuzz target for so long, or those named, as many at a time as
# there are processors. It fails if one panics, takes 20 s or 1 GiB for one input; the input is kept.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=image/lib.sh
. image/lib.sh
out=$PWD/build/fuzz

main() {
    local seconds=${1-} targets
    [[ $seconds =~ ^[1-9][0-9]*$ ]] || die "'$seconds' is no number of seconds" "make fuzz SECONDS=60"
    shift
    if [ -n "${CLOISTER_LOCKED_CARGO:-}" ] || ! command -v cargo >/dev/null; then
        echo "SKIPPED, not fuzzed: no Rust toolchain here" >&2
        exit 0
    fi
    if ! command -v c++ >/dev/null; then
        echo "SKIPPED, not fuzzed: libFuzzer needs a C++ compiler (g++)" >&2
        exit 0
    fi
    say "compiling the fuzz targets"
    mkdir -p "$out"
    RUSTC_WORKSPACE_WRAPPER=$PWD/tests/fuzzer/instrument.sh image/cargo.sh build --quiet --locked \
        -p cloister-fuzzer --features engine --bin fuzz
    # The next ordinary build writes another program to that place.
    cp "${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu/debug/fuzz" "$out/fuzz"
    rm -rf "$out/seeds"
    CLOISTER_SEEDS=$out/seeds "$out/fuzz"
    targets=$(cd "$out/seeds" && printf '%s\n' *)
    if [ $# -gt 0 ]; then targets=$(printf '%s\n' "$@"); fi
    say "$(wc -l <<<"$targets") targets, $seconds s each"
    export out seconds
    export -f fuzz
    xargs -P "$(nproc)" -I{} bash -c 'fuzz {}' <<<"$targets" ||
        die "a target failed; its input and what it said stand in $out" "see the lines above"
}

fuzz() {
    local name=$1 log=$out/$1.log corpus=$out/corpus/$1
    [ -d "$out/seeds/$name" ] || { echo "no target is called $name" >&2; exit 1; }
    mkdir -p "$corpus"
    if CLOISTER_TARGET=$name "$out/fuzz" -max_total_time="$seconds" -timeout=20 \
        -rss_limit_mb=1024 -print_final_stats=1 -artifact_prefix="$out/$name-" \
        "$corpus" "$out/seeds/$name" >"$log" 2>&1; then
        awk -v name="$name" '/ cov: / { cov = $4 } /number_of_executed_units/ { runs = $2 }
            /peak_rss_mb/ { peak = $2 }
            END { printf "%-26s %9d runs  %6d branches  %4d MiB\n", name, runs, cov, peak }' "$log"
    else
        tail -n 25 "$log" >&2
        echo "$name failed: CLOISTER_TARGET=$name $out/fuzz INPUT runs it again" >&2
        exit 1
    fi
}

main "$@"
