# stranger.sh WORK CACHE ABROAD PROFILE PROGRAMS: builds the image as a stranger would, into WORK/out-b.
# reproduce.sh starts it as root of fresh namespaces of mounts and names, with a checkout in WORK/b
# and, in the folder ABROAD of the cache, trees whose clock goes ahead. PROGRAMS may name a folder of
# the cache with the compiled programs.
set -euo pipefail
work=$1 cache=$2 abroad=$3 profile=$4 programs=$5
other=$work/other

mount --make-rprivate /
hostname stranger.example.org
# Another file system: it gives the entries of a folder in another order. The programs' objects
# need some space, so that where memory is short we stay on the disk.
varied=(path environment 'time zone' processors day 'host name' 'modes and times')
if [ "$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)" -ge 6144 ]; then
    mount -t tmpfs -o size=4g,mode=755 stranger "$other"
    varied+=('file system')
fi
# The cache lies where another user may not look.
mount --bind "$cache" "$work/kept"

checkout="$other/a checkout with spaces/cloister"
mine=$other/.cache/deep/er
mkdir -p "$checkout" "$mine/debs" "$other/hömé" "$other/tmp"
cp -R "$work/b/." "$checkout/"
ln -s "$work/kept/debs/"*.deb "$mine/debs/"
ln -s "$work/kept/$abroad/"{tools,build}-* "$work/kept/"crates-* "$mine/"
compiled=()
if [ -n "$programs" ]; then compiled=(--programs "$work/kept/$programs"); fi
# A checkout with odd modes and times, made by somebody with another umask.
find "$checkout" -type f -perm -u+x -exec chmod 700 {} + -o -type f -exec chmod 600 {} +
find "$checkout" -type d -exec chmod 700 {} +
find "$checkout" -exec touch -h -d 2001-02-03 {} +
umask 077

# Another user; who is no more than root of his own namespace is that already.
as=()
if unshare --user true 2>/dev/null && chown -R 54321:54321 "$other" "$work/out-b" 2>/dev/null; then
    as=(setpriv --reuid 54321 --regid 54321 --clear-groups)
    varied+=(user)
fi

# A language that this machine has, if it has any.
language=$(locale -a 2>/dev/null | grep -Eiv '^(c|posix)([._]|$)' | head -n 1) || true
if [ -n "$language" ]; then varied+=(language); fi
printf 'the stranger has another %s\n' "${varied[@]}" >&2

# One processor, and whatever of the environment a program might listen to.
one=$(taskset --cpu-list --pid $$ | sed -E 's/.*: ([0-9]+).*/\1/')
traps=(
    HOME="$other/hömé" USER=stranger LOGNAME=stranger TMPDIR="$other/tmp" XDG_CACHE_HOME=/nowhere
    XDG_CONFIG_HOME=/nowhere TZ=Pacific/Kiritimati LC_ALL=${language:-POSIX} LANGUAGE=de
    SOURCE_DATE_EPOCH=1 CDPATH=/tmp:/ POSIXLY_CORRECT=1 QUOTING_STYLE=shell BLOCK_SIZE=7
    LD_LIBRARY_PATH=/nowhere LD_BIND_NOW=1 LD_PRELOAD=libm.so.6
    RUSTFLAGS=-Cdebuginfo=2 CARGO_ENCODED_RUSTFLAGS=-Cdebuginfo=2 CARGO_BUILD_JOBS=1
    CARGO_INCREMENTAL=1 CARGO_PROFILE_RELEASE_DEBUG=2 CARGO_PROFILE_RELEASE_LTO=off
    CARGO_TARGET_DIR=/nowhere CARGO_BUILD_TARGET=i686-unknown-linux-gnu RUSTC_WRAPPER=/bin/false
    RUSTC=/bin/false RUSTUP_TOOLCHAIN=nightly CC=/bin/false CFLAGS=-O0 LDFLAGS=-Wl,--build-id
    GZIP=-1 XZ_OPT=-0 XZ_DEFAULTS=-0 ZSTD_CLEVEL=1 ZSTD_NBTHREADS=7 TAR_OPTIONS=--mode=a+rwx
    DPKG_DEB_COMPRESSOR_TYPE=none DPKG_ROOT=/nowhere
    PYTHONHASHSEED=7 PYTHONPATH=/nowhere PYTHONHOME=/nowhere PYTHONOPTIMIZE=2
    MKOSI_HOST_DISTRIBUTION=fedora MKOSI_DEBUG=1 MKOSI_DNF=/bin/false
    SYSTEMD_REPART_MKFS_OPTIONS_EROFS=-zlz4 SYSTEMD_REPART_OVERRIDE_FSTYPE=ext4
    SYSTEMD_REPART_OVERRIDE_FSTYPE_ROOT=ext4 SYSTEMD_LOG_LEVEL=debug
)
cd /
run=("${as[@]}" taskset --cpu-list "$one" env "${traps[@]}" CLOISTER_CACHE="$mine")
# The clock is what it should be, or the test would prove less than it says.
for set in tools build; do
    day=$("${run[@]}" bash "$checkout/image/enter.sh" --tree "$set" -- date -u +%m-%d)
    case $day in
    02-28 | 02-29) ;;
    *) echo "cloister: the clock of the $set tree does not go ahead: $day" >&2; exit 1 ;;
    esac
done
exec "${run[@]}" bash "$checkout/image/build.sh" --profile "$profile" --output "$work/out-b" \
    --fresh "${compiled[@]}"
