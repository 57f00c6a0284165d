#!/usr/bin/env bash
# relock.sh: makes image/deb.lock anew from the archive of today and prints what changed, for
# review.
#
# apt fetches the indexes of Debian trixie into a private place, checks their signatures with the
# archive's keyring and resolves the three sets. Nothing is installed and this machine's own apt
# state is not touched.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$image_dir/mirrors.sh"

suite=trixie
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
stamp_form=%Y%m%dT%H%M%SZ

main() {
    command -v gpgv >/dev/null || die "gpgv is missing" "apt-get install gpgv"
    [ -r "$keyring" ] ||
        die "the keyring of the Debian archive is missing" "apt-get install debian-archive-keyring"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
    : >"$work/status"
    write_sources
    say "reading the indexes of $suite"
    quietly "$work/update.log" apt_do apt-get update --error-on=any ||
        die "the archive's indexes could not be read, or are not signed by $keyring" \
            "check the network and the mirror"
    for set in image build tools nix; do resolve "$set"; done
    evidence >"$work/evidence"
    write_lock >"$work/deb.lock"
    show_diff
    cp "$work/deb.lock" "$lock_file"
    say "wrote image/deb.lock: review the diff, then \`make image\`"
}

write_sources() {
    local main security
    read -r main < <(mirror_bases main) || true
    read -r security < <(mirror_bases security) || true
    [ -n "$main" ] && [ -n "$security" ] ||
        die "no package mirror is known: apt has no Debian source" \
            "set CLOISTER_MIRRORS to the base address of a Debian mirror"
    # Signed-By names the only keys that may vouch for these indexes.
    printf "deb [signed-by=$keyring] %s %s main\n" "$main" "$suite" "$main" "$suite-updates" \
        "$security" "$suite-security" >"$work/sources.list"
}

# apt with a private state: our sources only, an empty machine, amd64 only.
apt_do() {
    "$@" -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o Dir::State="$work/state" -o Dir::Cache="$work/cache" \
        -o Dir::State::status="$work/status" \
        -o APT::Sandbox::User=root -o APT::Architecture=amd64 -o APT::Architectures::=amd64 \
        -o APT::Install-Recommends=false -o Acquire::Languages=none \
        -o Acquire::AllowInsecureRepositories=false
}

# packages/SET: one package a line. A bare name comes with what it depends on; "=name" comes alone;
# "-name" is a dependency that we do without: apt is told that it is there; "@name" is an empty
# package: the one it stands for.
resolve() {
    local set=$1 list=$image_dir/packages/$1 want alone without
    want=$(sed -nE 's/^([a-z0-9][^ #]*).*/\1/p' "$list")
    alone=$(sed -nE 's/^=([^ #]+).*/\1/p' "$list")
    for name in $(sed -nE 's/^@([^ #]+).*/\1/p' "$list"); do
        alone+=" $(apt_do apt-cache depends --important "$name" |
            awk '$1 == "Depends:" && !n++ { print $2 }')"
    done
    without=$(sed -nE 's/^-([^ #]+).*/\1/p' "$list")
    for name in $without; do
        printf '%s\n' "Package: $name" 'Status: install ok installed' 'Version: 9999:0' \
            'Architecture: amd64' 'Multi-Arch: foreign' 'Maintainer: none' 'Description: none' ''
    done >"$work/status"
    : >"$work/$set.versions"
    if [ -n "$want" ]; then
        # shellcheck disable=SC2086 # names are words
        apt_do apt-get --simulate install $want >"$work/$set.plan" 2>"$work/$set.err" ||
            die "the set $set cannot be resolved: $(grep -m1 '^E:' "$work/$set.err")" \
                "correct image/packages/$set"
        sed -nE 's/^Inst ([^ ]+) \(([^ ]+) .*/\1=\2/p' "$work/$set.plan" >>"$work/$set.versions"
    fi
    for name in $alone; do
        version=$(apt_do apt-cache policy "$name" | awk '$1 == "Candidate:" { print $2 }')
        [ -n "$version" ] && [ "$version" != "(none)" ] ||
            die "there is no package $name in $suite" "correct image/packages/$set"
        printf '%s=%s\n' "$name" "$version" >>"$work/$set.versions"
    done
    # shellcheck disable=SC2046
    apt_do apt-cache show $(cat "$work/$set.versions") >"$work/$set.show"
    awk -v set="$set" -v RS= -F'\n' '{
        split("", f)
        for (i = 1; i <= NF; i++)
            if (n = index($i, ": ")) f[substr($i, 1, n - 1)] = substr($i, n + 2)
        # A package may stand in more than one index.
        if (!seen[f["Package"], f["Version"]]++)
            print f["Package"], f["Version"], f["Architecture"], f["SHA256"], f["Size"], \
                f["Filename"], set
    }' "$work/$set.show" | sort -u >"$work/$set.rows"
    [ "$(wc -l <"$work/$set.rows")" = "$(sort -u "$work/$set.versions" | wc -l)" ] ||
        die "the index does not describe every package of the set $set" "run \`make relock\` again"
    say "$set: $(wc -l <"$work/$set.rows") packages"
}

write_lock() {
    printf '# Every package that the image, its build and its tools are made of.\n'
    printf '# Made by `make relock`; do not edit.\n#\n'
    printf '# Taken from these signed Release files (InRelease):\n'
    cat "$work/evidence"
    cat "$work"/{image,build,tools,nix}.rows | awk '{
        key = $1 " " $2 " " $3 " " $4 " " $5 " " $6
        if (key in sets) sets[key] = sets[key] "," $7; else sets[key] = $7
    } END { for (key in sets) print key, sets[key] }' | sort >"$work/rows"
    printf '#\n# rows %s\n' "$(wc -l <"$work/rows")"
    printf '# name version architecture sha256 size pool-path sets\n'
    cat "$work/rows"
}

# What vouches for the hashes, a line for each Release file: archive, suite, date, SHA-256 of the
# file, and the keys that signed it. apt has checked them already; here they are checked once more
# and named, so that a reader can find the very file in the snapshot archive and do the same.
evidence() {
    local file archive suite date keys
    for file in "$work"/state/lists/*_InRelease; do
        suite=$(sed -n '/^SHA256:/q;s/^Codename: //p' "$file")
        archive=debian
        case $suite in *-security) archive=debian-security ;; esac
        date=$(sed -n '/^SHA256:/q;s/^Date: //p' "$file")
        keys=$(signers "$file")
        [ -n "$keys" ] && [ -n "$suite" ] || die "$suite: no signature by a key of $keyring" \
            "this is no archive of Debian: check the mirror"
        printf '# evidence %s %s %s sha256:%s key:%s\n' "$archive" "$suite" \
            "$(date -u -d "$date" +"$stamp_form")" "$(hash_of <"$file")" "$keys"
        # Where to look when the archive has moved on: its state of half a day later, by when the
        # snapshot archive surely has what this file lists.
        printf '# snapshot %s %s\n' "$archive" "$(date -u -d "$date + 12 hours" +"$stamp_form")"
    done | sort -r | awk '$2 != "snapshot" || !seen[$3]++' | sort
}

# The fingerprints of the primary keys whose signature on FILE is good, with commas between.
signers() {
    # It fails where only some of the signatures are by keys that this machine knows.
    { gpgv --keyring "$keyring" --status-fd 1 "$1" 2>/dev/null || true; } |
        awk '$2 ~ /SIG$/ && $2 != "VALIDSIG" { good = $2 == "GOODSIG" }
            $2 == "VALIDSIG" && good { print $NF }' | sort -u | paste -sd,
}

# By name, version and sets: the columns that a person reviews. The hashes follow from signed
# indexes.
show_diff() {
    local changes
    [ -e "$lock_file" ] || return 0
    changes=$(diff -U0 <(reviewed "$lock_file") <(reviewed "$work/deb.lock") |
        grep -E '^[-+][^-+]' || true)
    printf '%s\n' "${changes:-nothing changed}"
}

reviewed() { awk '!/^#/ { print $1, $2, $7 }' "$1"; }

main "$@"
