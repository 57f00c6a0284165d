# A static bash, and a starter for each program that `nix develop` offers.
mkdir -p "$out/bin" "$out/programs"
ar p "$bash" data.tar.xz | tar -xJ -O -f - ./usr/bin/bash-static >"$out/bin/bash"
chmod 755 "$out/bin/bash"
starter() {
    local tree=$1 name
    shift
    for name in "$@"; do
        test -e "$tree/usr/bin/$name" || test -e "$tree/usr/sbin/$name"
        cat >"$out/programs/$name" <<END
#!$out/bin/bash
user=(--user --map-root-user)
if [ "\$EUID" = 0 ]; then user=(); fi
exec unshare --mount "\${user[@]}" $out/bin/bash $inner $tree "\$PWD" 0 $name "\$@"
END
        chmod 755 "$out/programs/$name"
    done
}
starter "$tools" $fromTools
starter "$build" $fromBuild
