#!/usr/bin/env bash
# build.sh [--profile NAME] --output DIR [--stated] [--rebuild]: builds the image of a profile the
# second way, with Nix, and puts the same files into DIR as image/build.sh does.
# build.sh -- ARGUMENTS...: runs Nix on a copy of this checkout, which SOURCE in an argument stands
# for, as in `nix/build.sh -- flake check SOURCE`.
#   --stated    puts there instead what cloister-release makes of the image: the bill of materials;
#               and with the demo's configuration (nix/site.toml) UKI, disk and measurements
#   --rebuild   builds what is there once more; fails if any bit differs
#
# The Nix of this machine does it if there is one, else that of the lock (CLOISTER_LOCKED_NIX=1
# asks for it), with a store of its own in the cache. What the locks name is fetched here, from the
# mirrors of this machine, and put into the store; what is not, Nix fetches from the snapshot
# archive and the registry of crates.
. "$(dirname "${BASH_SOURCE[0]}")/../image/lib.sh"

profile=production output='' rebuild=''
needed_nix=2.18
# The only ones that are not in every stock nix.conf.
features='nix-command flakes'

main() {
    arguments "$@"
    can_sandbox
    choose_nix
    copy_of_checkout
    fill_store
    if [ -n "$run" ]; then
        nix_do "${run_arguments[@]//SOURCE/path:$source}"
    else
        build_image
    fi
}

arguments() {
    local usage='usage: nix/build.sh [--profile demo|production] --output DIR [--stated] [--rebuild]'
    local what=image
    made='the image'
    run='' run_arguments=()
    while [ $# -gt 0 ]; do
        case $1 in
        --profile) profile=${2-}; shift 2 || die "--profile needs a name" "$usage" ;;
        --output) output=${2-}; shift 2 || die "--output needs a folder" "$usage" ;;
        --stated) what=stated made='what is stated of the image'; shift ;;
        --rebuild) rebuild=1; shift ;;
        --) run=1; shift; run_arguments=("$@"); return ;;
        *) die "unknown argument: $1" "$usage" ;;
        esac
    done
    [ -n "$output" ] || die "no --output given" "$usage"
    mkdir -p "$output" 2>/dev/null ||
        die "cannot create $output" "choose another folder with --output"
    need_space "$output" 64 "choose another folder with --output"
    [ "$what" = image ] || [ ! -e "$output/root.erofs" ] ||
        die "$output holds an image: its command line and initrd would be written over" \
            "choose another folder with --output"
    case $profile in
    production) attribute=$what ;;
    demo) attribute=$what-demo ;;
    *) die "there is no profile '$profile'" "there are: demo production" ;;
    esac
}

# Nix would build with no sandbox where this fails, and our probe would stop it, less clearly.
can_sandbox() {
    local try=(unshare --user --map-root-user --mount --pid --fork true)
    "${try[@]}" 2>/dev/null ||
        die "no user namespaces: this machine does not let us make one, so there is no sandbox" \
            "as root: sysctl -w user.max_user_namespaces=15000
          on Ubuntu also: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0
          in a container: allow unshare and mount"
}

# nix_do ARGUMENTS: the chosen Nix. $store_at is where its /nix/store lies as seen from here.
choose_nix() {
    local version
    if [ -z "${CLOISTER_LOCKED_NIX:-}" ] && version=$(nix --version 2>/dev/null); then
        version=${version##* }
        if [ "$(printf '%s\n' "$needed_nix" "$version" | sort -V | head -n 1)" = "$needed_nix" ]
        then
            check_settings
            say "using the Nix of this machine, $version"
            store_at=/nix/store
            nix_do() { nix --extra-experimental-features "$features" "$@"; }
            nix_store_do() { nix-store "$@"; }
            return
        fi
        say "Nix $version of this machine is older than $needed_nix: using the locked one"
    fi
    need_space "$cache_dir" 4096
    "$image_dir/tree.sh" nix >/dev/null
    store_at=$cache_dir/nix/store
    mkdir -p "$store_at" "$cache_dir/nix-home"
    nix_do() { locked nix "$@"; }
    nix_store_do() { locked nix-store "$@"; }
}

# Stock settings but for the features; no fallback to no sandbox, which is the default; no group of
# build users, which only a Nix that was installed has; no registry and no builds of others, which
# nothing here asks for. Who is root in a namespace of his own only may not drop groups.
locked() {
    "$image_dir/enter.sh" --tree nix --at "$cache_dir/nix:/nix" -- env -i PATH=/usr/bin:/usr/sbin \
        HOME="$cache_dir/nix-home" LC_ALL=C.UTF-8 TZ=UTC NIX_USER_CONF_FILES=/dev/null \
        NIX_CONFIG="experimental-features = $features
sandbox = true
sandbox-fallback = false
build-users-group =
require-drop-supplementary-groups = $(root_is_real)
flake-registry =
substituters =" ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        "$@"
}

root_is_real() { if [ "$(id -u)" = 0 ]; then echo true; else echo false; fi; }

# A Nix that builds through a daemon takes this from its own nix.conf alone. (If it falls back to no
# sandbox all the same, the probe ends the build.)
check_settings() {
    local found
    found=$(nix --extra-experimental-features "$features" config show sandbox 2>/dev/null) ||
        found=$(nix --extra-experimental-features "$features" show-config 2>/dev/null |
            sed -n 's/^sandbox = //p') || found=''
    case $found in
    true | relaxed) ;;
    *) die "the Nix of this machine builds with no sandbox (sandbox = ${found:-unknown})" \
        "set CLOISTER_LOCKED_NIX=1, or put into /etc/nix/nix.conf, and restart nix-daemon:
          experimental-features = $features
          sandbox = true
          sandbox-fallback = false" ;;
    esac
}

# The files that git knows, as they lie here: no build outputs, no history.
copy_of_checkout() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/cloister-nix.XXXXXX")
    trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
    source=$work/source
    mkdir "$source"
    cd "$repo_dir"
    git rev-parse HEAD >/dev/null 2>&1 ||
        die "this folder is no git checkout" "clone the repository: git knows what belongs to it"
    [ -z "$(git status --porcelain)" ] || say "this checkout has changes that are in no commit"
    git ls-files --cached --others --exclude-standard -z |
        while read -r -d '' file; do
            if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi
        done | tar -c --null -T - | tar -x -C "$source"
}

# Puts into the store what is in the cache and not there yet. A path in the store goes by its hash:
# a file with another one would get another path, that nobody asks for.
fill_store() {
    local kind digest name path
    nix_do eval --raw "path:$source#leaves" >"$work/leaves" ||
        die "Nix cannot read the graph" "its message stands above; of its settings these are needed:
          experimental-features = $features
          sandbox = true"
    while read -r kind digest name path; do
        [ -e "$store_at/${path##*/}" ] || printf '%s %s %s %s\n' "$kind" "$digest" "$name" "$path"
    done <"$work/leaves" | sort -u >"$work/missing"
    [ -s "$work/missing" ] || return 0
    "$image_dir/fetch.sh" tools build image nix
    ! grep -q '^crate ' "$work/missing" || "$image_dir/vendor.sh" >/dev/null
    mkdir "$work/new"
    while read -r kind digest name path; do
        case $kind in
        seed) put_seed "$path" ;;
        package) offer "$(deb_file "$digest")" "$digest" "$name" || true ;;
        crate)
            local home=${CARGO_HOME:-$HOME/.cargo}
            for file in {"$cache_dir/cargo","$home"}/registry/cache/*/"$name"; do
                if offer "$file" "$digest" "$name"; then break; fi
            done
            ;;
        esac
    done <"$work/missing"
    [ -n "$(ls "$work/new")" ] || return 0
    say "putting $(ls "$work/new" | wc -l) packages and crates into the store"
    nix_store_do --add-fixed sha256 "$work"/new/* >/dev/null
}

# offer FILE SHA256 NAME: takes a file to those that go into the store, if it is the right one.
offer() {
    [ -e "$1" ] && [ "$(hash_of <"$1")" = "$2" ] || return 1
    ln "$1" "$work/new/$3" 2>/dev/null || cp "$1" "$work/new/$3"
}

# The first program in the sandbox, out of the locked package.
put_seed() {
    local sha seed=$work/busybox-static put
    sha=$(lock_rows nix | awk '$1 == "busybox-static" { print $4 }')
    # In a folder of its own: a busybox asks how it is called, and store names begin with a hash.
    mkdir "$seed"
    dpkg-deb --fsys-tarfile "$(deb_file "$sha")" | tar -x -O ./usr/bin/busybox >"$seed/busybox"
    chmod 755 "$seed/busybox"
    put=$(nix_store_do --add-fixed --recursive sha256 "$seed")
    [ "$put" = "$1" ] || die "nix/seed.hash is not that of the locked busybox-static" \
        "after \`make relock\` write this into it: $(nix_do hash path --sri "$seed")"
}

build_image() {
    local what built steps='tools build crates programs parts'
    case $attribute in stated*) steps="$steps auditor ${attribute/stated/image}" ;; esac
    say "building $made of profile $profile with Nix"
    if [ -n "$rebuild" ]; then
        # The steps one by one: --rebuild takes what a step is made of as it is.
        for what in $steps "$attribute"; do
            built=$(nix_build "$what")
            say "building $what once more"
            nix_build "$what" --rebuild >/dev/null
        done
    fi
    built=$(nix_build "$attribute")
    rm -f "$output/SHA256SUMS" "$output/sbom.spdx.json"
    cp --remove-destination --no-preserve=mode "$store_at/${built##*/}"/* "$output/"
    [ ! -e "$output/cloister-agent" ] || chmod 755 "$output/cloister-agent"
    say "$made of profile $profile is in $output ($(du -sm "$output" | cut -f1) MiB)"
}

# nix_build ATTRIBUTE OPTION...: prints where it stands in the store.
nix_build() {
    local what=$1
    shift
    nix_do build --no-link --no-write-lock-file --print-out-paths --print-build-logs "$@" \
        "path:$source#$what" || die "Nix could not build $what" "its message stands above"
}

main "$@"
