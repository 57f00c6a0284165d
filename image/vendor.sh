#!/usr/bin/env bash
# vendor.sh: brings the crates of Cargo.lock into the cache and prints where. cargo checks each
# against Cargo.lock. The host's cargo does it if there is one, else the locked one, with the
# network on.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

main() {
    [ -s "$repo_dir/Cargo.lock" ] || die "Cargo.lock is missing" "restore it from git"
    local vendor
    vendor=$cache_dir/crates-$(hash_of <"$repo_dir/Cargo.lock" | cut -c1-16)
    if [ ! -e "$vendor" ]; then
        need_space "$cache_dir" 1024
        open_lock 8 .vendor-lock "fetches crates"
    fi
    if [ ! -e "$vendor" ]; then
        say "fetching the crates of Cargo.lock"
        rm -rf "$vendor.new"
        cd "$repo_dir"
        quietly "$cache_dir/vendor.log" \
            cargo_do vendor --locked --versioned-dirs "$vendor.new" 8>&- ||
            die "the crates could not be fetched" \
                "check the network; if Cargo.lock is out of step: \`cargo update --workspace\`"
        settle "$vendor.new"
        mv "$vendor.new" "$vendor"
    fi
    printf '%s\n' "$vendor"
}

# With a home of its own: vendoring waits for every other cargo of the user's home to end, one that
# runs this very script among them. What that home says of registries and proxies holds here, too.
cargo_do() {
    local home=${CARGO_HOME:-$HOME/.cargo} file
    export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} CARGO_HOME=$cache_dir/cargo
    mkdir -p "$CARGO_HOME"
    for file in config.toml config credentials.toml; do
        if [ -e "$home/$file" ]; then ln -sf "$home/$file" "$CARGO_HOME/$file"; fi
    done
    if [ -z "${CLOISTER_LOCKED_CARGO:-}" ] && command -v cargo >/dev/null; then
        cargo "$@"
    else
        # Behind a proxy that has an authority of its own, the host's bundle knows it.
        local bundle=certs/ca-certificates.crt
        if [ -r "/etc/ssl/$bundle" ]; then
            "$image_dir/enter.sh" --tree build --at /etc/ssl:/host-ssl -- \
                env CARGO_HTTP_CAINFO="/host-ssl/$bundle" cargo "$@"
        else
            "$image_dir/enter.sh" --tree build -- cargo "$@"
        fi
    fi
}

main "$@"
