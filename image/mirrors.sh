# Where packages are fetched from: CLOISTER_MIRRORS, this machine's own apt sources, and last, for
# what these no longer have, Debian's snapshot archive. A mirror is not trusted with anything: every
# file is checked against the lock.
# shellcheck shell=bash

# apt_bases: "KIND URI" for each Debian archive that apt is set up with; KIND is main or security.
apt_bases() {
    local etc=${CLOISTER_APT_ETC:-/etc/apt}
    {
        # One-line format: deb [options] URI suite component…
        cat "$etc"/sources.list "$etc"/sources.list.d/*.list 2>/dev/null |
            sed -nE 's/^\s*deb\s+(\[[^]]*\]\s*)?(\S+)\s+(\S+).*/\2 \3/p' ||
            true # no such file is no fault: there are two formats
        # deb822 format: stanzas with URIs: and Suites:
        for f in "$etc"/sources.list.d/*.sources; do
            [ -r "$f" ] || continue
            awk -v RS= '{
                uris = suites = ""; off = 0
                n = split($0, line, "\n")
                for (i = 1; i <= n; i++) {
                    if (line[i] ~ /^URIs:/) { sub(/^URIs:/, "", line[i]); uris = line[i] }
                    if (line[i] ~ /^Suites:/) { sub(/^Suites:/, "", line[i]); suites = line[i] }
                    if (tolower(line[i]) ~ /^enabled: *(no|false)/) off = 1
                }
                if (off) next
                nu = split(uris, u, " "); ns = split(suites, s, " ")
                for (i = 1; i <= nu; i++) for (j = 1; j <= ns; j++) print u[i], s[j]
            }' "$f"
        done
    } | awk '{
        sub(/\/+$/, "", $1)
        kind[$1] = ($2 ~ /-security|\/updates/) ? "security" : "main"
        # Others publish suites of the same names; an archive with an -updates suite is surely
        # Debian and goes first.
        if ($2 ~ /-updates$/) sure[$1] = 1
        if (!($1 in rank)) { rank[$1] = ++n; uri[n] = $1 }
    } END {
        for (i = 1; i <= n; i++) if (uri[i] in sure) print kind[uri[i]], uri[i]
        for (i = 1; i <= n; i++) if (!(uri[i] in sure)) print kind[uri[i]], uri[i]
    }'
}

# mirror_bases KIND: URIs to try for a kind, best first. CLOISTER_MIRRORS (space-separated) goes
# first, for any kind.
mirror_bases() {
    local uri
    for uri in ${CLOISTER_MIRRORS:-}; do
        # The security archive often lies beside the main one.
        if [ "$1" = security ]; then printf '%s\n' "${uri%/}-security"; fi
        printf '%s\n' "${uri%/}"
    done
    apt_bases | awk -v k="$1" '$1 == k { print $2 }'
    # A host without security sources often has a mirror that carries that archive beside the main
    # one.
    if [ "$1" = security ]; then apt_bases | awk '$1 == "main" { print $2 "-security" }'; fi
    snapshot_base "$1"
}

# snapshot_base KIND: the state of the archive that the lock was made from, if the lock says which.
# CLOISTER_SNAPSHOT names another server of the same form, or none if empty.
snapshot_base() {
    local server=${CLOISTER_SNAPSHOT-http://snapshot.debian.org/archive} archive=debian
    if [ "$1" = security ]; then archive=debian-security; fi
    [ -z "$server" ] || awk -v a="$archive" -v server="$server" \
        '$1 == "#" && $2 == "snapshot" && $3 == a { print server "/" a "/" $4 }' "$lock_file"
}
