# Shared by the scripts of this folder: where things lie, and how they speak. Sourced, never run.
# shellcheck shell=bash

set -euo pipefail
# Reproducibility: the caller's umask and locale must not reach any file that we make.
umask 022
export LC_ALL=C.UTF-8 TZ=UTC
# Nor what its environment says to the programs that we start.
unset CDPATH POSIXLY_CORRECT GREP_OPTIONS TAR_OPTIONS GZIP XZ_OPT XZ_DEFAULTS ZSTD_CLEVEL \
    ZSTD_NBTHREADS PYTHONPATH PYTHONHOME SOURCE_DATE_EPOCH
# Where Debian keeps mount and pivot_root; a person's own PATH may lack it.
PATH=$PATH:/usr/sbin:/sbin

# The comment at a script's head is its help.
case ${1-} in
-h | --help)
    sed -n '2,/^[^#]/ { s/^# \{0,1\}//p }' "$0"
    exit 0
    ;;
esac

image_dir=$(cd -- "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
repo_dir=$(dirname "$image_dir")
lock_file=$image_dir/deb.lock
# The scripts call each other; times count from the start of the first.
export CLOISTER_STARTED_S=${CLOISTER_STARTED_S:-$EPOCHSECONDS}

# die CAUSE [NEXT-STEP]: one line with the cause, one with what to do about it.
die() {
    printf 'cloister: %s\n' "$1" >&2
    if [ $# -gt 1 ]; then printf '          %s\n' "$2" >&2; fi
    exit 1
}

cache_dir=${CLOISTER_CACHE:-${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}/cloister}
[ "$cache_dir" != /cloister ] ||
    die "there is no place for a cache: HOME is not set" "set CLOISTER_CACHE to a folder for it"

# stamp: the time since the start.
stamp() {
    local t=$((EPOCHSECONDS - CLOISTER_STARTED_S))
    printf '[%02d:%02d]' $((t / 60)) $((t % 60))
}

# say TEXT: a step.
say() { printf '%s %s\n' "$(stamp)" "$*" >&2; }

# tick TEXT: like say, but at a terminal each line replaces the last; elsewhere nothing is printed.
tick() {
    [ -t 2 ] || return 0
    printf '\r\033[K%s %.80s' "$(stamp)" "$*" >&2
}
tick_end() { if [ -t 2 ]; then printf '\r\033[K' >&2; fi; }

# quietly LOG CMD...: runs a command with its output in LOG; shows the end of it if the command
# fails. At a terminal the last line of it is seen as it grows.
quietly() {
    local log=$1 watcher='' rc=0
    shift
    : >"$log"
    if [ -t 2 ]; then
        # Ends by itself when this shell does.
        while sleep 1 && kill -0 $$ 2>/dev/null; do
            tick "  $(tail -c 200 "$log" | tr '\r\t\033' '\n ?' | tail -n 1)"
        done &
        watcher=$!
    fi
    "$@" >"$log" 2>&1 || rc=$?
    if [ -n "$watcher" ]; then
        kill "$watcher" 2>/dev/null || true
        wait "$watcher" 2>/dev/null || true
        tick_end
    fi
    [ "$rc" != 0 ] || return 0
    printf -- '---- the last lines of %s\n' "$log" >&2
    tail -n 20 "$log" >&2
    printf -- '----\n' >&2
    return "$rc"
}

# need_space DIR MIB [WAY-OUT]: refuses early rather than half-way.
need_space() {
    mkdir -p "$1" 2>/dev/null ||
        die "cannot create $1" "set CLOISTER_CACHE to a folder that you can write to"
    local free
    free=$(df -Pm "$1" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$2" ] ||
        die "$1 has $free MiB free and this step needs $2" \
            "free some space, or ${3:-set CLOISTER_CACHE to another disk}"
}

# open_lock FD NAME WHO: takes the cache's lock NAME for as long as FD stays open. Says so if
# another run, which WHO describes, has it.
open_lock() {
    mkdir -p "$(dirname "$cache_dir/$2")" 2>/dev/null && [ -w "$(dirname "$cache_dir/$2")" ] &&
        { [ ! -e "$cache_dir/$2" ] || [ -w "$cache_dir/$2" ]; } ||
        die "cannot write to $cache_dir" "set CLOISTER_CACHE to a folder that you can write to"
    eval "exec $1>\"\$cache_dir/\$2\""
    flock --nonblock "$1" || { say "waiting for another run that $3"; flock "$1"; }
}

# settle FOLDER: what is in it is on the disk, before the name it gets says that it is whole.
settle() { sync --file-system "$1"; }

# check_lock: refuses a lock that is absent, cut off, or has a row of another form.
check_lock() {
    local way='restore it from git, or make it anew with `make relock`' fault
    [ -s "$lock_file" ] || die "image/deb.lock is missing" "$way"
    fault=$(awk '
        $1 == "#" && $2 == "rows" { stated = $3 }
        /^#/ { next }
        { rows++ }
        NF != 7 || $4 !~ /^[0-9a-f]+$/ || length($4) != 64 || $5 !~ /^[0-9]+$/ {
            print "row " NR " has another form: " $1; exit
        }
        END { if (rows != stated) print rows + 0 " rows of " stated " are there" }
    ' "$lock_file" | head -n 1)
    [ -z "$fault" ] || die "image/deb.lock is damaged: $fault" "$way"
}

# lock_rows SET: the rows of the lock that belong to a set (tools, build, image, nix).
lock_rows() {
    awk -v set="$1" '!/^#/ && index("," $7 ",", "," set ",")' "$lock_file"
}

# hash_of: the SHA-256 of standard input, in hex.
hash_of() { sha256sum | cut -d' ' -f1; }

# tree_dir SET: where the unpacked tree of a set lies. Its name changes with the set's rows and with
# the way it is made.
tree_dir() {
    local key
    key=$({ lock_rows "$1" | cut -d" " -f1-6; cat "$image_dir/unpack.sh"; } | hash_of)
    printf '%s/%s-%s\n' "$cache_dir" "$1" "${key:0:16}"
}

# deb_file SHA256: where a locked package lies in the cache. The name is its content.
deb_file() { printf '%s/debs/%s.deb\n' "$cache_dir" "$1"; }
