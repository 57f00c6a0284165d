#!/usr/bin/env bash
# run.sh [FILE...]: changes the checks of attest one operator at a time, and demands that a test
# fails each time. All of attest, or those files (attest/src/snp/verify.rs, or a pattern with **).
# SHARD=0/8 takes every eighth mutant; JOBS=2 runs as many at a time, each with a tree of its own.
# What survives stands in survivors.md, with the reason; one that is not there, or stands there and
# survives no more, is a failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=image/lib.sh
. image/lib.sh

version=27.1.0
tool=$cache_dir/mutants-$version
out=$PWD/build/mutants
list=$PWD/tests/mutants/survivors.md
settings=$PWD/tests/mutants/config.toml
jobs=${JOBS:-1}
shard=${SHARD:-0/1}

main() {
    if [ -n "${CLOISTER_LOCKED_CARGO:-}" ] || ! command -v cargo >/dev/null; then
        echo "SKIPPED, no mutant was tried: no Rust toolchain here" >&2
        exit 0
    fi
    [[ $jobs =~ ^[1-9][0-9]*$ ]] || die "JOBS: '$jobs' is no number of jobs" "JOBS=2"
    if ! [[ $shard =~ ^([0-9]+)/([1-9][0-9]*)$ ]] || ((BASH_REMATCH[1] >= BASH_REMATCH[2])); then
        die "SHARD: '$shard' is no part of a whole" "SHARD=0/8 is the first of eight"
    fi
    install_tool
    mkdir -p "$out"
    rm -rf "$out"/{caught,missed,timeout,unviable,every,stray,stale} "$out"/quick-* "$out"/whole-*
    [ $# -gt 0 ] || set -- 'attest/src/**/*.rs'
    for ((job = 0; job < jobs; job++)); do plant "$job"; done
    select_mutants "$@"
    [ -s "$out/every" ] || die "no mutant can be made of $*" "the files stand in attest/src"
    say "$(wc -l <"$out/every") mutants"
    # First with the tests that are nearest; what survives these, with every test of the room.
    for area in $(areas | cut -d' ' -f1); do try_area "$area"; done
    try_whole
    judge
}

install_tool() {
    [ -x "$tool/bin/cargo-mutants" ] && return
    say "compiling cargo-mutants $version"
    env -u CARGO_BUILD_TARGET cargo install cargo-mutants --version "$version" --locked --quiet \
        --root "$tool"
}

# A copy of the sources for job $1 and a target folder that it keeps: a mutant costs seconds. Every
# file is of now: what was built last may have been a mutant, of a run that was broken off.
plant() {
    rm -rf "$out/tree-$1"
    mkdir -p "$out/tree-$1"
    git ls-files -z --cached --others --exclude-standard |
        tar --create --null --files-from=- --ignore-failed-read | tar --extract --touch -C "$out/tree-$1"
    # Evidence of real machines stands beside a checkout.
    if [ -d ../shared ]; then ln -sfn "$PWD/../shared" "$out/shared"; fi
}

# AREA PATTERN TESTS: which tests are the nearest of which files; the first that fits counts.
areas() {
    cat <<'AREAS'
snp ^attest/src/snp snp,snp_key,snp_policy,snp_vectors
tdx ^attest/src/tdx tdx,tdx_platform,tdx_policy,tdx_vectors
gpu ^attest/src/gpu gpu,gpu_manifest,gpu_report,gpu_vectors
azure ^attest/src/(azure|tpm/(vtpm|google)) azure,azure_vectors
tpm ^attest/src/tpm quote,chain,verify
certificates ^attest/src/(crl|certificate|rsa) chain,snp,gpu,tdx_platform,rsa
events ^attest/src/eventlog eventlog,azure_vectors
release ^attest/src/(release|policy/release) release,log,vouching,sigstore
policy ^attest/src/policy policy,shipped,snp_policy,tdx_policy,gpu_report
rest . verify,files,policy,gpu_peer
AREAS
}

area_of() {
    local name pattern tests
    while read -r name pattern tests; do
        if [[ $1 =~ $pattern ]]; then echo "$name"; return; fi
    done < <(areas)
}

mutants() {
    local job=$1
    shift
    CARGO_TARGET_DIR=$out/target-$job CARGO_INCREMENTAL=1 \
        CARGO_BUILD_TARGET=x86_64-unknown-linux-gnu \
        "$tool/bin/cargo-mutants" mutants -d "$out/tree-$job" --config "$settings" \
        --package cloister-attest --no-shuffle --sharding round-robin --colors never "$@"
}

# The mutants of this run, by name, and the files that they are in.
select_mutants() {
    local files=() file
    for file; do files+=(--file "$file"); done
    mutants 0 --list "${files[@]}" --shard "$shard" >"$out/every"
    cut -d: -f1 "$out/every" | sort -u >"$out/files"
}

# try FOLDER ARGUMENTS...: the jobs side by side, each with its part of the mutants.
try() {
    local folder=$1 job running=()
    shift
    for ((job = 0; job < jobs; job++)); do
        mkdir -p "$folder/$job"
        mutants "$job" --in-place --output "$folder/$job" --minimum-test-timeout 120 \
            --shard "$((${shard%/*} + ${shard#*/} * job))/$((${shard#*/} * jobs))" \
            --cargo-arg=--locked "$@" >"$folder/$job/said" 2>&1 &
        running+=($!)
    done
    for job in "${running[@]}"; do
        local code=0
        wait "$job" || code=$?
        # 2: some survived; 3: some took too long. Anything else is no verdict on the mutants.
        case $code in 0 | 2 | 3) ;; *)
            tail -n 20 "$folder"/*/said >&2
            die "cargo-mutants failed with $code" "what it said stands in $folder" ;;
        esac
    done
}

try_area() {
    local area=$1 tests files=() file arguments=()
    while read -r file; do
        if [ "$(area_of "$file")" = "$area" ]; then files+=(--file "$file"); fi
    done <"$out/files"
    [ ${#files[@]} -gt 0 ] || return 0
    tests=$(areas | awk -v area="$area" '$1 == area { print $3 }')
    arguments=(--cargo-arg=--lib)
    for file in ${tests//,/ }; do arguments+=("--cargo-arg=--test=$file"); done
    say "$area: $tests"
    try "$out/quick-$area" "${files[@]}" "${arguments[@]}"
    gather "$out/quick-$area"
}

gather() {
    local kind
    for kind in caught missed timeout unviable; do
        cat "$1"/*/mutants.out/$kind.txt 2>/dev/null >>"$out/$kind" || true
    done
}

# Survivors once more, with every test. Those were chosen by shard before: take them all.
try_whole() {
    local name chosen=() shard=0/1
    [ -s "$out/missed" ] || return 0
    while read -r name; do
        chosen+=(--re "^$(sed 's/[][\\.^$*+?(){}|]/\\&/g' <<<"$name")\$")
    done <"$out/missed"
    say "$(wc -l <"$out/missed") survived the nearest tests; now all tests"
    : >"$out/missed"
    try "$out/whole" --cargo-arg=--lib --cargo-arg=--tests "${chosen[@]}"
    gather "$out/whole"
}

# Names without their place in the file: that moves with every change above it.
named() { sed -E 's/^([^:]+):[0-9]+:[0-9]+: /\1: /' "$@" | sort; }

judge() {
    local kind survivors=$out/survivors
    for kind in caught missed timeout unviable; do
        touch "$out/$kind"
        printf '%-9s %5d\n' "$kind" "$(wc -l <"$out/$kind")"
    done
    named "$out/missed" "$out/timeout" >"$survivors"
    # A row: | `the mutant` | the reason |
    sed -nE 's/^\| `([^`]+)` \| .+ \|$/\1/p' "$list" | sort >"$out/listed"
    comm -23 "$survivors" "$out/listed" >"$out/stray"
    comm -13 "$survivors" "$out/listed" | grep -F -f <(sed 's/$/: /' "$out/files") >"$out/stale" ||
        true
    if [ "$shard" != 0/1 ]; then
        : >"$out/stale"
        echo "not asked, as this is a part: whether each one of the list still survives"
    fi
    sed 's/^/survived, and is not listed: /' "$out/stray"
    sed 's/^/listed, and survived no more: /' "$out/stale"
    if [ -s "$out/stray" ] || [ -s "$out/stale" ]; then
        die "the list of survivors is not true" "write the missing test, or change $list"
    fi
    say "every survivor is listed with its reason"
}

main "$@"
