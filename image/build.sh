#!/usr/bin/env bash
# build.sh --profile NAME --output DIR: builds the image of a profile.
#
# Fetches what the lock names, compiles the agent and the initrd's init, lays out the root, packs it
# with mkosi under dm-verity, and writes the parts that `cloister-release assemble` puts together.
# Only fetching uses the network. The result is kept under a key made of everything that it was made
# from. --fresh builds it again all the same.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

profile='' output='' fresh=''

main() {
    arguments "$@"
    mkdir -p "$output" 2>/dev/null ||
        die "cannot create $output" "choose another folder with --output"
    need_space "$output" 64 "choose another folder with --output"
    need_space "$cache_dir" 1024
    tools=$("$image_dir/tree.sh" tools)
    "$image_dir/tree.sh" build >/dev/null
    "$image_dir/fetch.sh" image
    programs=$("$image_dir/rust.sh")
    local key kept
    key=$(inputs | hash_of)
    kept=$cache_dir/image-${key:0:16}
    open_lock 7 .image-lock "builds an image"
    if [ -n "$fresh" ]; then rm -rf "$kept"; fi
    if [ ! -e "$kept" ]; then make_image "$kept"; fi
    hand_over "$kept"
    say "the image of profile $profile is in $output ($(du -sm "$output" | cut -f1) MiB)"
}

arguments() {
    local usage='usage: image/build.sh --profile demo|production --output DIR [--fresh]'
    while [ $# -gt 0 ]; do
        case $1 in
        --profile) profile=${2-}; shift 2 || die "--profile needs a name" "$usage" ;;
        --output) output=${2-}; shift 2 || die "--output needs a folder" "$usage" ;;
        --fresh) fresh=1; shift ;;
        *) die "unknown argument: $1" "$usage" ;;
        esac
    done
    [ -n "$output" ] || die "no --output given" "$usage"
    [[ $profile =~ ^[a-z]+$ ]] && [ -d "$image_dir/profiles/$profile" ] ||
        die "there is no profile '$profile'" "there are: $(ls "$image_dir/profiles" | xargs)"
}

# Everything that decides the parts that the profiles share. A file's name, its x bit, its content.
inputs() {
    printf '%s\n' "$tools"
    hash_of <"$programs/cloister-agent"
    hash_of <"$programs/verity-init"
    lock_rows image
    cd "$repo_dir"
    find mkosi.conf image/repart image/rootfs image/root.list image/initrd.modules image/*.py \
        image/build.sh ! -type d | sort | while read -r file; do
        if [ -L "$file" ]; then
            printf 'link %s %s\n' "$file" "$(readlink "$file")"
        else
            printf '%s %s\n' "$([ -x "$file" ] && echo x || echo -)" "$file"
            hash_of <"$file"
        fi
    done
}

make_image() {
    local kept=$1
    work=$(mktemp -d "$cache_dir/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    unpack_packages
    say "laying out the root file system"
    tool python3 "$image_dir/stage.py" --list "$image_dir/root.list" --lock "$lock_file" \
        --packages "$work/packages" --rootfs "$image_dir/rootfs" \
        --agent "$programs/cloister-agent" --root "$work/root" --manifest "$work/manifest.json"
    pack_root
    make_initrd
    collect "$kept"
}

tool() { "$image_dir/enter.sh" --offline -- "$@" 7>&-; }

unpack_packages() {
    say "unpacking the image's packages"
    local name sha
    while read -r name _ _ sha _; do
        mkdir -p "$work/packages/$name"
        dpkg-deb --fsys-tarfile "$(deb_file "$sha")" |
            tar -x --no-same-owner -C "$work/packages/$name" ||
            die "cannot unpack $name" "if the disk is not full: rm -r $cache_dir/debs and try again"
    done < <(lock_rows image)
    # The kernel's package has its version in its name.
    kernel=$(echo "$work"/packages/linux-image-*)
}

# mkosi sees a staged copy of its own files: a checkout's modes and times play no part.
pack_root() {
    say "packing the root file system under dm-verity"
    mkdir -p "$work/mkosi/image" "$work/out" "$work/space" "$work/packages-cache"
    cp "$repo_dir/mkosi.conf" "$work/mkosi/"
    cp -R "$image_dir/repart" "$work/mkosi/image/"
    chmod -R u=rwX,go=rX "$work/mkosi"
    # An environment of its own: no SOURCE_DATE_EPOCH, no language, no home of the caller.
    quietly "$cache_dir/mkosi.log" tool env -i PATH=/usr/bin:/usr/sbin HOME=/root LC_ALL=C.UTF-8 \
        TZ=UTC PYTHONDONTWRITEBYTECODE=1 mkosi --directory "$work/mkosi" \
        --output-directory "$work/out" \
        --workspace-directory "$work/space" --package-cache-dir "$work/packages-cache" \
        --base-tree "$work/root" --force build ||
        die "mkosi could not pack the root file system" \
            "the whole output is in $cache_dir/mkosi.log"
}

make_initrd() {
    say "making the initrd"
    tool python3 "$image_dir/initrd.py" --init "$programs/verity-init" \
        --modules "$image_dir/initrd.modules" --output "$work/initrd.cpio" \
        --kernel "$(echo "$kernel"/usr/lib/modules/*/kernel)"
    # One thread: the number of threads decides how zstd cuts its frames.
    tool zstd --quiet -19 --single-thread --no-progress "$work/initrd.cpio" -o "$work/initrd"
}

collect() {
    local kept=$1 parts=$work/parts root
    mkdir -p "$parts"
    cp "$work"/out/*.root-x86-64.raw "$parts/root.erofs"
    cp "$work"/out/*.root-x86-64-verity.raw "$parts/root.verity"
    tool python3 "$image_dir/verity-ref.py" "$parts/root.verity" >"$parts/root.ref"
    # What mkosi packed is what was laid out, to the file.
    tool fsck.erofs --extract="$work/inside" "$parts/root.erofs" >/dev/null
    tool python3 "$image_dir/inspect.py" --manifest "$work/manifest.json" --root "$work/inside"
    root=$(cut -d: -f2 "$parts/root.ref")
    tool veritysetup verify "$parts/root.erofs" "$parts/root.verity" "$root" ||
        die "the root's hash tree does not fit it" \
            "this is a fault of the build: keep $cache_dir/mkosi.log"
    cp "$kernel"/boot/vmlinuz-* "$parts/vmlinuz"
    cp "$work"/packages/systemd-boot-efi/usr/lib/systemd/boot/efi/linuxx64.efi.stub \
        "$parts/stub.efi"
    cp "$work/initrd" "$work/manifest.json" "$programs/cloister-agent" "$parts/"
    cp "$image_dir/rootfs/usr/lib/os-release" "$parts/os-release"
    chmod 644 "$parts"/*
    chmod 755 "$parts/cloister-agent"
    mv "$parts" "$kept"
}

# The parts and the profile's command line, into the folder that was asked for.
hand_over() {
    local kept=$1
    rm -f "$output/SHA256SUMS"
    cp "$kept"/* "$output/"
    words "$image_dir/cmdline" "$image_dir/profiles/$profile/cmdline" >"$output/cmdline"
    printf '%s\n' "$profile" >"$output/profile"
    (cd "$output" && sha256sum -- $(cd "$kept" && ls) cmdline profile | sort -k2 >SHA256SUMS)
}

# The words of files with comments, on one line.
words() { sed 's/#.*//' "$@" | xargs; }

main "$@"
