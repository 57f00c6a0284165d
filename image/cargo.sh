#!/usr/bin/env bash
# cargo.sh ARGUMENTS...: cargo for programs that run on this machine. The host's if there is one;
# else the locked one, whose programs are static, so that they run here as well.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export CARGO_BUILD_TARGET=x86_64-unknown-linux-gnu

main() {
    if [ -z "${CLOISTER_LOCKED_CARGO:-}" ] && command -v cargo >/dev/null; then
        exec cargo "$@"
    fi
    vendor=$("$image_dir/vendor.sh")
    case ${1-} in
    test) shift && run_tests "$@" ;;
    *) locked_cargo "$@" ;;
    esac
}

locked_cargo() {
    "$image_dir/enter.sh" --tree build --offline --at "$vendor:/cloister-crates" -- \
        env CARGO_HOME="$cache_dir/cargo-home" RUSTFLAGS=-Ctarget-feature=+crt-static cargo \
        --config 'source.crates-io.replace-with="vendored"' \
        --config 'source.vendored.directory="/cloister-crates"' "$@"
}

# The locked tree has compilers and little else, and no network: tests are built there and run here.
# Examples in the documentation are not run.
run_tests() {
    local folder program failed=''
    built=$(mktemp -d)
    trap 'rm -rf "$built"' EXIT
    locked_cargo test --no-run --message-format=json-render-diagnostics "$@" >"$built/said"
    test_programs <"$built/said" >"$built/programs"
    [ -s "$built/programs" ] || die "no test was built" "run: image/cargo.sh test --no-run"
    while IFS=$'\t' read -r folder program; do
        say "running ${program##*/}"
        (cd "$folder" && "$program" </dev/null) || failed="$failed ${program##*/}"
    done <"$built/programs"
    [ -z "$failed" ] || die "these tests failed:$failed" "what they said stands above"
}

# Where each test belongs, and the program, of what cargo said that it built.
test_programs() {
    "$image_dir/enter.sh" --offline -- python3 -c '
import json, os, sys
for line in sys.stdin:
    built = json.loads(line)
    if built.get("executable") and built["profile"]["test"]:
        print(os.path.dirname(built["manifest_path"]), built["executable"], sep="\t")
'
}

main "$@"
