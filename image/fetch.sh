#!/usr/bin/env bash
# fetch.sh SET...: brings every package of the given sets into the cache, checked against
# image/deb.lock. What is there already is checked again and kept, so an interrupted run goes on
# where it stopped: within a package, too, with the mirror that gave its first part.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$image_dir/mirrors.sh"

helper=/usr/lib/apt/apt-helper
batch=12
# A mirror that says nothing for so long is given up; one that drips is cut off at 50 kB a second.
stall_s=${CLOISTER_STALL_S:-20}

main() {
    check_lock
    # Two runs at once share the cache; the second waits and then finds everything there.
    open_lock 9 debs/.lock "fetches packages"
    for set in "$@"; do lock_rows "$set"; done | sort -u >"$cache_dir/debs/.wanted"
    [ -s "$cache_dir/debs/.wanted" ] ||
        die "image/deb.lock has no packages for: $*" "make it anew with \`make relock\`"
    : >"$cache_dir/debs/.errors"
    check_cached
    [ -s "$cache_dir/debs/.missing" ] || return 0
    need_space "$cache_dir" $(($(total_mib) + 64))
    say "fetching $(wc -l <"$cache_dir/debs/.missing") packages, $(total_mib) MiB"
    for kind in main security; do fetch_kind "$kind"; done
    tick_end
}

# Leaves in .missing the rows whose package is absent or damaged.
check_cached() {
    (
        cd "$cache_dir/debs"
        while read -r _ _ _ sha _; do
            [ ! -e "$sha.deb" ] || printf '%s  %s.deb\n' "$sha" "$sha"
        done <.wanted >.sums
        if ! sha256sum --check --quiet .sums >.bad 2>/dev/null; then
            sed -n 's/: FAILED.*//p' .bad | while read -r f; do
                rm -f "$f"
                name=$(awk -v sha="${f%.deb}" '$4 == sha { print $1 }' .wanted)
                say "$name in the cache is damaged and is fetched again"
            done
        fi
        while read -r row; do
            set -- $row
            [ -e "$4.deb" ] || printf '%s\n' "$row"
        done <.wanted >.missing
    )
}

total_mib() { awk '{ n += $5 } END { print int(n / 1048576) + 1 }' "$cache_dir/debs/.missing"; }

# The security archive keeps its pool under pool/updates.
fetch_kind() {
    local kind=$1 base bases left=$cache_dir/debs/.left
    awk -v k="$kind" '(k == "security") == ($6 ~ /^pool\/updates\//)' \
        "$cache_dir/debs/.missing" >"$left"
    [ -s "$left" ] || return 0
    bases=$(mirror_bases "$kind")
    [ -n "$bases" ] || die "no package mirror is known: apt has no Debian source" \
        "set CLOISTER_MIRRORS to the base address of a Debian mirror"
    for base in $bases; do
        [ ! -s "$left" ] || fetch_from "$base" "$left"
    done
    [ -s "$left" ] || return 0
    tick_end
    local name version
    read -r name version _ <"$left"
    local way='if the archive has moved on: `make relock`, or name an older mirror in'
    case $(reason) in
    *"Hash Sum mismatch"*) way='the mirror has another file than the lock names: give another in' ;;
    esac
    die "$(wc -l <"$left") locked package(s) could not be fetched, first $name $version:$(reason)" \
        "$way CLOISTER_MIRRORS"
}

# What apt said of the last file that it did not get: "E: Failed to fetch ADDRESS  REASON".
reason() {
    sed -nE 's/^E: Failed to fetch [^ ]+ +(.*)/ \1/p' "$cache_dir/debs/.errors" | tail -n 1 |
        cut -c1-120
}

# Fetches the rows of LEFT from one base, a few at a time, and leaves there what it did not get.
fetch_from() {
    local base=$1 left=$2 done=0 all mark
    all=$(wc -l <"$left")
    # The parts of one mirror are never joined to another's: one of them may lie.
    mark=$(printf '%s' "$base" | hash_of | cut -c1-16)
    rm -f "$left".???? # of a run that was killed
    split -l "$batch" -a 4 "$left" "$left."
    : >"$left"
    for part in "$left".????; do
        local args=() row bytes=0 largest=0
        while read -r row; do
            set -- $row
            bytes=$((bytes + $5)) largest=$(($5 > largest ? $5 : largest))
            args+=("$base/$6" "$cache_dir/debs/$4.$mark.part" "SHA256:$4")
        done <"$part"
        # APT::Sandbox::User: the cache may be where apt's own user cannot write; the hash is
        # checked all the same.
        (
            # No file grows beyond what the lock says: a mirror that never ends fills no disk.
            ulimit -f $((largest / 1024 + 64))
            exec timeout -k 5 $((stall_s * 6 + bytes / 50000)) \
                "$helper" -o APT::Sandbox::User=root -o Acquire::Retries=2 \
                -o Acquire::http::Timeout="$stall_s" -o Acquire::https::Timeout="$stall_s" \
                download-file "${args[@]}" >"$cache_dir/debs/.log" 2>&1 9>&-
        ) || failed $? "$base"
        while read -r row; do
            set -- $row
            if keep "$cache_dir/debs/$4.$mark.part" "$4" "$5"; then
                done=$((done + 1))
            else
                printf '%s\n' "$row" >>"$left"
            fi
        done <"$part"
        rm -f "$part"
        tick "fetched $done of $all packages"
        # A mirror that gave nothing of a whole batch gives nothing of the next one either.
        if [ "$done" = 0 ]; then
            cat "$left".???? >>"$left" 2>/dev/null || true
            rm -f "$left".????
            break
        fi
    done
}

# failed STATUS BASE: keeps what was said, for reason().
failed() {
    cp "$cache_dir/debs/.log" "$cache_dir/debs/.errors"
    case $1 in
    124 | 137) printf 'E: Failed to fetch %s  too slow\n' "$2" >>"$cache_dir/debs/.errors" ;;
    esac
}

# keep FILE SHA256 BYTES: takes a download into the cache if it is what the lock says. A part of one
# stays where it is.
keep() {
    # apt sets aside what it found to be wrong.
    rm -f "$1.FAILED"
    [ -s "$1" ] || return 1
    if [ "$(hash_of <"$1")" != "$2" ]; then
        [ "$(stat -c %s "$1")" -lt "$3" ] || rm -f "$1"
        return 1
    fi
    mv "$1" "$(deb_file "$2")"
    rm -f "$cache_dir/debs/$2".*.part
}

main "$@"
