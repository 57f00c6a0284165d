#!/usr/bin/env bash
# build.sh: compiles kernels/cuda/*.cu to a cubin for each architecture, by the locked compiler.
#
#   --output DIR     where to (build/kernels)
#   --sources DIR    from where (kernels/cuda)
#   --only ARCH      this architecture alone; may stand several times
#   --manifest       writes kernels/cubins.sha256 anew instead of comparing with it
#   --toolkit        brings the compiler into the cache, prints where, and ends
#
# The compiler comes as wheels, through pip as this machine has it set up, and each must have the hash
# in wheels.lock. Ends with 75 if they cannot be had.
. "$(dirname "${BASH_SOURCE[0]}")/../image/lib.sh"

kernels_dir=$repo_dir/kernels
output=$repo_dir/build/kernels sources=$kernels_dir/cuda only=() manifest=
architectures=(sm_80 sm_89 sm_90a sm_100 sm_120)

main() {
    while [ $# -gt 0 ]; do
        case $1 in
        --output) output=$2 && shift ;;
        --sources) sources=$2 && shift ;;
        --only) only+=("$2") && shift ;;
        --manifest) manifest=1 ;;
        --toolkit) toolkit && exit ;;
        *) die "unknown option $1" "see: kernels/build.sh --help" ;;
        esac
        shift
    done
    tools=$(toolkit) || exit
    [ ${#only[@]} = 0 ] || architectures=("${only[@]}")
    mkdir -p "$output"
    output=$(cd "$output" && pwd -P)
    say "compiling kernels for ${architectures[*]}"
    rm -rf "$output.log"
    jobs_of | xargs -P "$(nproc)" -n 2 "${BASH_SOURCE[0]%/*}/compile.sh" "$tools" "$sources" \
        "$output" >"$output.log" 2>&1 || {
        cat "$output.log" >&2
        die "the kernels do not compile" "the compiler's words stand above"
    }
    if [ -n "$manifest" ]; then
        digests "$output" >"$kernels_dir/cubins.sha256"
    elif ! diff -u <(wanted) <(digests "$output") >&2; then
        die "these are not the cubins of kernels/cubins.sha256" \
            "after a change of a kernel: kernels/build.sh --manifest, and commit it"
    fi
    say "$(digests "$output" | wc -l) cubins in $output"
}

# ARCHITECTURE MODULE, the longest first.
jobs_of() {
    local file name
    for file in attention_prefill attention_decode $(cd "$sources" && echo ./*.cu); do
        name=$(basename "$file" .cu)
        case " ${seen-} " in *" $name "*) continue ;; esac
        local seen="${seen-} $name"
        for architecture in "${architectures[@]}"; do
            printf '%s %s\n' "$architecture" "$name"
        done
    done
}

digests() {
    (cd "$1" && sha256sum $(printf '%s/*.cubin\n' "${architectures[@]}") | sort -k 2)
}

wanted() {
    grep -E "  ($(IFS='|' && echo "${architectures[*]}"))/" "$kernels_dir/cubins.sha256"
}

# The compiler's folder in the cache, named by its lock.
toolkit() {
    local lock=$kernels_dir/wheels.lock into
    into=$cache_dir/cuda-$(hash_of <"$lock" | cut -c1-16)
    if [ ! -e "$into" ]; then
        need_space "$cache_dir" 512
        open_lock 6 .cuda-lock "fetches the kernels' compiler"
    fi
    if [ ! -e "$into" ]; then
        say "fetching the kernels' compiler"
        rm -rf "$into.new" "$into.wheels"
        mkdir -p "$into.new" "$into.wheels"
        local kinds=(--only-binary :all: --platform manylinux_2_17_x86_64
            --platform manylinux_2_12_x86_64 --timeout 20 --retries 2)
        quietly "$cache_dir/cuda.log" python3 -m pip download --quiet --no-deps --require-hashes \
            "${kinds[@]}" --dest "$into.wheels" --requirement "$lock" || {
            ! grep -q 'DO NOT MATCH THE HASHES' "$cache_dir/cuda.log" ||
                die "a wheel is not the one that kernels/wheels.lock names" "what pip said is above"
            say "the kernels' compiler could not be fetched"
            exit 75
        }
        local wheel
        for wheel in "$into.wheels"/*.whl; do python3 -m zipfile -e "$wheel" "$into.new"; done
        chmod +x "$into.new"/nvidia/cu13/bin/* "$into.new"/nvidia/cu13/nvvm/bin/*
        rm -rf "$into.wheels"
        settle "$into.new"
        mv "$into.new" "$into"
    fi
    printf '%s\n' "$into/nvidia/cu13"
}

main "$@"
