#!/usr/bin/env bash
# run.sh: signs, timestamps, logs and verifies a release against real services on loopback, then has
# other people's programs verify it, and verifies theirs.
#
# Rekor v2, the timestamp authority, cosign and sigstore-go come from Debian's sources and packages
# (deb.lock), the certificate authority and sigstore-js from npm (package-lock.json), sigstore-python
# from its index (requirements.txt); all are checked by hash. What cannot be had is skipped, and said.
. "$(dirname "${BASH_SOURCE[0]}")/../../image/lib.sh"
here=$repo_dir/tests/sigstore
lock_file=$here/deb.lock
. "$image_dir/mirrors.sh"

programs=$repo_dir/target/x86_64-unknown-linux-gnu/debug
identity=https://ci.example.org/cloister/release.yml@refs/tags/v1
issuer=https://issuer.example.org
origin=rekor.local
services=()
passed=0 failed=0 skipped=0

main() {
    store=$cache_dir/sigstore
    mkdir -p "$store"
    open_lock 9 .sigstore-lock "tests with Sigstore's services"
    [ -x "$programs/cloister-release" ] && [ -x "$programs/cloister-publish" ] ||
        die "the programs are not built" "run \`make test-sigstore\`"
    fetch_packages
    build_services
    install_npm || die "no certificate authority without its npm packages" "install node and npm"
    work=$(mktemp -d)
    trap stop EXIT
    start_services
    ours
    watch
    peers
    say "$passed passed, $failed failed, $skipped skipped"
    printf '%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
    [ "$failed" = 0 ]
}

stop() {
    for pid in "${services[@]}"; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}

# check NAME CMD...: must succeed. refuse NAME CODE CMD...: must fail with that exit code.
check() {
    local name=$1
    shift
    if "$@" >"$work/said" 2>&1; then passed=$((passed + 1)) && say "ok    $name"; else
        failed=$((failed + 1)) && say "FAIL  $name" && sed 's/^/      /' "$work/said" >&2
    fi
}
refuse() {
    local name=$1 code=$2 rc=0
    shift 2
    "$@" >"$work/said" 2>&1 || rc=$?
    if [ "$rc" = "$code" ]; then passed=$((passed + 1)) && say "ok    $name"; else
        failed=$((failed + 1)) && say "FAIL  $name: exit $rc, not $code"
        sed 's/^/      /' "$work/said" >&2
    fi
}
skip() { skipped=$((skipped + 1)) && say "SKIPPED  $1: $2"; }

fetch_packages() {
    local row base
    mkdir -p "$cache_dir/debs"
    grep -v '^#' "$lock_file" | while read -r row; do
        set -- $row
        [ -s "$(deb_file "$4")" ] || printf '%s\n' "$row"
    done >"$store/missing"
    [ -s "$store/missing" ] || return 0
    need_space "$cache_dir" 4096
    say "fetching $(wc -l <"$store/missing") packages"
    for base in $(mirror_bases main); do
        while read -r row; do
            set -- $row
            [ -s "$(deb_file "$4")" ] && continue
            curl --silent --fail --location --max-time 120 --output "$store/part" "$base/$6" ||
                continue
            [ "$(hash_of <"$store/part")" = "$4" ] || die "$1 is not what deb.lock says"
            mv "$store/part" "$(deb_file "$4")"
        done <"$store/missing"
    done
    while read -r row; do
        set -- $row
        [ -s "$(deb_file "$4")" ] || die "$1 $2 could not be fetched" \
            "name a mirror that has it in CLOISTER_MIRRORS"
    done <"$store/missing"
}

build_services() {
    local key tree
    key=$({ cat "$lock_file"; declare -f build_services; } | hash_of)
    bin=$store/programs-${key:0:16}
    [ ! -e "$bin" ] || return 0
    say "building Rekor v2, the timestamp authority and sigstore-go"
    tree=$store/tree
    rm -rf "$tree" "$bin.new"
    mkdir -p "$tree" "$bin.new"
    grep -v '^#' "$lock_file" | while read -r _ _ _ sha _; do
        dpkg-deb --fsys-tarfile "$(deb_file "$sha")" |
            tar -x --no-same-owner --exclude='./usr/share/doc*' -C "$tree" -f -
    done
    local github=github.com/sigstore
    # Its metrics would stand open on every interface, at a port that cannot be chosen.
    local metrics=$tree/usr/share/gocode/src/$github/timestamp-authority/v2/pkg/server/prometheus.go
    sed -i 's/":2112"/"127.0.0.1:0"/' "$metrics"
    grep -q '"127.0.0.1:0"' "$metrics" || die "the timestamp authority has another port for metrics" \
        "look where $metrics listens now"
    for package in rekor-tiles/cmd/rekor-server/posix sigstore-go/test/conformance \
        timestamp-authority/v2/cmd/timestamp-server; do
        quietly "$store/go.log" env -i PATH="$PATH" HOME="$store" LC_ALL=C.UTF-8 \
            GOROOT="$(echo "$tree"/usr/lib/go-1.*)" GOPATH="$tree/usr/share/gocode" \
            GO111MODULE=off GOTOOLCHAIN=local CGO_ENABLED=0 GOCACHE="$store/gocache" \
            "$(echo "$tree"/usr/lib/go-1.*)/bin/go" build -o "$bin.new/" "$github/$package" ||
            die "$package does not build" "the whole output is in $store/go.log"
    done
    # cosign is dynamic, and newer than this machine may be: it comes with its own loader.
    mkdir "$bin.new/cosign"
    cp -L "$tree"/usr/bin/cosign "$tree"/usr/lib/x86_64-linux-gnu/{libc.so.6,ld-linux-x86-64.so.2} \
        "$bin.new/cosign/"
    mv "$bin.new" "$bin"
    rm -rf "$tree"
}

install_npm() {
    command -v npm >/dev/null || return 1
    local key
    key=$(hash_of <"$here/package-lock.json")
    export MODULES=$store/npm-${key:0:16}
    [ ! -e "$MODULES" ] || return 0
    say "installing sigstore-js and its mocks"
    rm -rf "$MODULES.new"
    mkdir -p "$MODULES.new"
    cp "$here"/package.json "$here"/package-lock.json "$MODULES.new/"
    (cd "$MODULES.new" && quietly "$store/npm.log" npm ci --ignore-scripts --no-audit --no-fund) ||
        return 1
    mv "$MODULES.new" "$MODULES"
}

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# wait_for NAME LOG CMD...: until it answers.
wait_for() {
    local name=$1 log=$2
    shift 2
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.2
    done
    tail -n 20 "$log" >&2
    die "$name does not answer" "what it said stands above"
}

start_services() {
    local http tsa
    http=$(port) tsa=$(port)
    export REKOR_URL=http://127.0.0.1:$http REKOR_HOST=$origin REKOR_KEY=$work/rekor.pem
    export TSA_URL=http://127.0.0.1:$tsa
    openssl genpkey -algorithm ed25519 -out "$REKOR_KEY"
    "$bin/posix" serve --http-port "$http" --http-metrics-port "$(port)" --grpc-port "$(port)" \
        --hostname "$origin" --storage-dir "$work/log" --signer-filepath "$REKOR_KEY" \
        --checkpoint-interval 1s --batch-max-age 200ms >"$work/rekor.log" 2>&1 &
    services+=($!)
    "$bin/timestamp-server" serve --host 127.0.0.1 --port "$tsa" --timestamp-signer memory \
        --disable-ntp-monitoring >"$work/tsa.log" 2>&1 &
    services+=($!)
    wait_for "the timestamp authority" "$work/tsa.log" curl -sf "$TSA_URL/ping"
    wait_for "Rekor" "$work/rekor.log" curl -sf "$REKOR_URL/healthz"
    authority "$work/now" 0
    # Its certificates had expired an hour before anyone signed.
    authority "$work/late" -4200
    trust=$work/now/trusted_root.json config=$work/now/signing_config.json
}

authority() {
    mkdir -p "$1"
    SKEW_S=$2 node "$here/services.mjs" "$1" >"$1/log" 2>&1 &
    services+=($!)
    wait_for "the certificate authority" "$1/log" test -e "$1/ready"
}

publish() { "$programs/cloister-publish" sign --statement "$work/statement.json" "$@"; }
verify() { "$programs/cloister-release" sigstore verify "$@"; }
keyless=(--certificate-identity "$identity" --certificate-oidc-issuer "$issuer")

ours() {
    python3 "$here/statement.py" "$work"
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/p256.pem"
    openssl genpkey -algorithm ed25519 -out "$work/ed25519.pem"
    chmod 600 "$work"/*.pem
    local key start=$EPOCHREALTIME
    check "sign, timestamp, log by identity" publish --identity-token "$work/now/token.jwt" \
        --signing-config "$config" --trusted-root "$trust" --output "$work/keyless.json"
    say "      took $(took "$start") s"
    start=$EPOCHREALTIME
    check "verify by identity" verify --bundle "$work/keyless.json" --trusted-root "$trust" \
        "${keyless[@]}"
    say "      took $(took "$start") s"
    for key in p256 ed25519; do openssl pkey -in "$work/$key.pem" -pubout -out "$work/$key.pub"; done
    for key in p256; do
        check "sign, timestamp, log by a key ($key)" publish --key "$work/$key.pem" \
            --signing-config "$config" --trusted-root "$trust" --output "$work/$key.json"
        check "verify by a key ($key)" verify --bundle "$work/$key.json" \
            --trusted-root "$trust" --key "$work/$key.pub"
    done
    refuse "a key that Rekor v2 does not take" 1 publish --key "$work/ed25519.pem" \
        --signing-config "$config" --trusted-root "$trust" --output "$work/ed25519.json"
    refuse "another key" 2 verify --bundle "$work/p256.json" --trusted-root "$trust" \
        --key "$work/ed25519.pub"
    refuse "another identity" 4 verify --bundle "$work/keyless.json" --trusted-root "$trust" \
        --certificate-identity other --certificate-oidc-issuer "$issuer"
    refuse "another issuer" 4 verify --bundle "$work/keyless.json" --trusted-root "$trust" \
        --certificate-identity "$identity" --certificate-oidc-issuer https://other.example.org
    refuse "nobody expected" 1 verify --bundle "$work/keyless.json" --trusted-root "$trust"
    refuse "the public-good authorities" 5 verify --bundle "$work/p256.json" \
        --key "$work/p256.pub"
    refuse "a certificate that had expired" 2 publish --identity-token "$work/late/token.jwt" \
        --signing-config "$work/late/signing_config.json" \
        --trusted-root "$work/late/trusted_root.json" --output "$work/late.json"
    refuse "a log that is away" 5 publish --key "$work/p256.pem" --rekor http://127.0.0.1:1 \
        --tsa "$TSA_URL/api/v1/timestamp" --trusted-root "$trust" --attempts 2 \
        --output "$work/unlogged.json"
    refuse "no bundle of what was not logged" 1 test -e "$work/unlogged.json"
}

# What Rekor wrote, read as the monitor reads it.
watch() {
    local where log start
    where=127.0.0.1:$(port) log=$work/log
    "$programs/cloister-release" log serve --log "$log" --listen "$where" 2>"$work/serve.log" &
    services+=($!)
    wait_for "the log's files" "$work/serve.log" curl -sf "http://$where/checkpoint"
    git init --quiet "$work/sources"
    monitor() {
        "$programs/cloister-release" sigstore monitor --origin "$origin" --rekor "http://$where" \
            --trusted-root "$trust" --source "$work/sources" --state "$work/state.json" "$@"
    }
    start=$EPOCHREALTIME
    refuse "the monitor finds an entry in our name without a tag" 6 monitor \
        --identity https://ci.example.org/ --published "$work/keyless.json"
    say "      took $(took "$start") s"
    check "the monitor goes on from where it was" monitor --identity https://ci.example.org/
    rm "$work/state.json"
    check "the monitor lets others be" monitor --identity https://nobody.example.org/
}

took() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }'; }

# cosign by its own loader, with nothing of ours in its home.
cosign() {
    HOME=$work "$bin/cosign/ld-linux-x86-64.so.2" --library-path "$bin/cosign" \
        "$bin/cosign/cosign" "$@"
}

peers() {
    local artifact=$work/artifact protocol=(--certificate-identity "$identity"
        --certificate-oidc-issuer "$issuer" --trusted-root "$trust")
    check "sigstore-go verifies ours" "$bin/conformance" verify-bundle \
        --bundle "$work/keyless.json" "${protocol[@]}" "$artifact"
    check "cosign verifies ours" cosign verify-blob-attestation \
        --bundle "$work/keyless.json" --trusted-root "$trust" --use-signed-timestamps \
        --type https://cloister.dev/release/v3 "${keyless[@]}" "$artifact"
    check "cosign verifies ours by a key" cosign verify-blob-attestation \
        --bundle "$work/p256.json" --trusted-root "$trust" --use-signed-timestamps \
        --type https://cloister.dev/release/v3 --key "$work/p256.pub" "$artifact"
    check "sigstore-js verifies ours" node "$here/verify.mjs" "$work/keyless.json" "$trust" \
        "$identity" "$issuer"
    check "cosign signs" cosign_signs
    check "ours verifies cosign's" "$programs/cloister-release" conformance verify-bundle \
        --bundle "$work/cosign.json" "${protocol[@]}" "$artifact"
    refuse "another file under cosign's" 4 "$programs/cloister-release" conformance \
        verify-bundle --bundle "$work/cosign.json" "${protocol[@]}" "$work/statement.json"
    if sigstore_python; then
        check "sigstore-python verifies ours" "$python/bin/python" -m sigstore \
            --trust-config "$(trust_config)" verify identity --bundle "$work/keyless.json" \
            --cert-identity "$identity" --cert-oidc-issuer "$issuer" "$artifact"
    else
        skip "sigstore-python" "it cannot be installed here; see $store/pip.log"
    fi
}

cosign_signs() {
    cosign sign-blob --yes --signing-config "$config" --trusted-root "$trust" \
        --identity-token "$work/now/token.jwt" --bundle "$work/cosign.json" \
        "$work/artifact"
}

sigstore_python() {
    local key
    key=$(hash_of <"$here/requirements.txt")
    python=$store/python-${key:0:16}
    [ ! -e "$python/ready" ] || return 0
    rm -rf "$python"
    quietly "$store/pip.log" python3 -m venv "$python" &&
        quietly "$store/pip.log" "$python/bin/pip" install --quiet --only-binary :all: \
            --require-hashes -r "$here/requirements.txt" && touch "$python/ready"
}

# Both files in one, as sigstore-python reads them.
trust_config() {
    python3 - "$trust" "$config" <<'PY' >"$work/trust_config.json"
import json, sys
root, config = (json.load(open(path)) for path in sys.argv[1:])
media = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
print(json.dumps({"mediaType": media, "trustedRoot": root, "signingConfig": config}))
PY
    printf '%s\n' "$work/trust_config.json"
}

main "$@"
