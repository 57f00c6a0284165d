#!/usr/bin/env bash
# pack.sh DEBS PROGRAMS WORK PARTS: makes the parts of the image that every profile shares and puts
# them into the new folder PARTS.
#   DEBS      holds the image's packages, each named SHA256.deb
#   PROGRAMS  holds cloister-agent and verity-init
#   WORK      an empty folder to work in
#
# Runs inside the locked tools tree with the network off, and is the one recipe of both ways to the
# image: build.sh comes here through enter.sh, nix/ through its own sandbox.

# Reproducibility: an environment of its own. No SOURCE_DATE_EPOCH, language, time zone, home, nor
# any of the variables that MKOSI, SYSTEMD_REPART, PYTHON, ZSTD or TAR listen to.
if [ "${1-}" != --environment-is-clean ]; then
    exec env -i CLOISTER_STARTED_S="${CLOISTER_STARTED_S-}" PATH=/usr/bin:/usr/sbin HOME=/root \
        LC_ALL=C.UTF-8 TZ=UTC PYTHONDONTWRITEBYTECODE=1 bash "$0" --environment-is-clean "$@"
fi
shift
# It also sets the umask: the caller's would reach the modes of files that mkosi makes.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

main() {
    [ $# = 4 ] || die "wrong arguments" "usage: image/pack.sh DEBS PROGRAMS WORK PARTS"
    debs=$1 programs=$2 work=$3 parts=$4
    unpack_packages
    lay_out
    pack_root
    make_initrd
    collect
    check
}

unpack_packages() {
    say "unpacking the image's packages"
    local name sha said
    while read -r name _ _ sha _; do
        mkdir -p "$work/packages/$name"
        said=$({ dpkg-deb --fsys-tarfile "$debs/$sha.deb" |
            tar -x --no-same-owner --no-same-permissions -C "$work/packages/$name"; } 2>&1) ||
            die "cannot unpack $name: ${said%%$'\n'*}" \
                "if the disk is not full: delete $sha.deb in the cache's debs folder and try again"
    done < <(lock_rows image)
    # The kernel's package has its version in its name.
    kernel=$(echo "$work"/packages/linux-image-*)
}

lay_out() {
    say "laying out the root file system"
    python3 "$image_dir/stage.py" --list "$image_dir/root.list" --lock "$lock_file" \
        --packages "$work/packages" --rootfs "$image_dir/rootfs" \
        --agent "$programs/cloister-agent" --root "$work/root" --manifest "$work/manifest.json"
}

# mkosi sees a staged copy of its own files: a checkout's modes and times play no part.
pack_root() {
    say "packing the root file system under dm-verity"
    mkdir -p "$work/mkosi/image" "$work/out" "$work/space" "$work/packages-cache"
    cp "$repo_dir/mkosi.conf" "$work/mkosi/"
    cp -R "$image_dir/repart" "$work/mkosi/image/"
    chmod -R u=rwX,go=rX "$work/mkosi"
    quietly "$work/mkosi.log" mkosi --directory "$work/mkosi" --output-directory "$work/out" \
        --workspace-directory "$work/space" --package-cache-dir "$work/packages-cache" \
        --base-tree "$work/root" --force build ||
        die "mkosi could not pack the root file system" "its last lines stand above"
}

make_initrd() {
    say "making the initrd"
    python3 "$image_dir/initrd.py" --init "$programs/verity-init" \
        --modules "$image_dir/initrd.modules" --output "$work/initrd.cpio" \
        --kernel "$(echo "$kernel"/usr/lib/modules/*/kernel)"
    # Reproducibility: one thread, for the number of threads decides how zstd cuts its frames.
    zstd --quiet -19 --single-thread --no-progress "$work/initrd.cpio" -o "$work/initrd"
}

collect() {
    mkdir -p "$parts"
    cp "$work"/out/*.root-x86-64.raw "$parts/root.erofs"
    cp "$work"/out/*.root-x86-64-verity.raw "$parts/root.verity"
    python3 "$image_dir/verity-ref.py" "$parts/root.verity" >"$parts/root.ref"
    cp "$kernel"/boot/vmlinuz-* "$parts/vmlinuz"
    cp "$work"/packages/systemd-boot-efi/usr/lib/systemd/boot/efi/linuxx64.efi.stub \
        "$parts/stub.efi"
    cp "$work/initrd" "$work/manifest.json" "$programs/cloister-agent" "$parts/"
    cp "$image_dir/rootfs/usr/lib/os-release" "$parts/os-release"
    chmod 644 "$parts"/*
    chmod 755 "$parts/cloister-agent"
}

# What mkosi packed is what was laid out, to the file, and the hash tree fits it.
check() {
    fsck.erofs --extract="$work/inside" --xattrs "$parts/root.erofs" >/dev/null
    python3 "$image_dir/inspect.py" --manifest "$work/manifest.json" --root "$work/inside"
    local root
    root=$(cut -d: -f2 "$parts/root.ref")
    veritysetup verify "$parts/root.erofs" "$parts/root.verity" "$root" ||
        die "the root's hash tree does not fit it" "this is a fault of the build: report it"
}

main "$@"
