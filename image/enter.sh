#!/usr/bin/env bash
# enter.sh [OPTION...] [--] CMD...: runs a command with /usr and /etc of a locked tree.
#   --tree tools|build|nix  which tree; tools if not given
#   --offline               takes the network away
#   --at FOLDER:PATH        lets FOLDER stand at PATH, which must not be there otherwise
#
# Everything else of the host (the working directory, /tmp, /home, /dev, …) stands where it stood,
# so paths keep their meaning. Works as root and, where user namespaces are allowed, as anybody.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

main() {
    local set=tools offline='' places=()
    local usage='usage: image/enter.sh [--tree tools|build|nix] [--offline] [--at FOLDER:PATH] CMD…'
    while [ $# -gt 0 ]; do
        case $1 in
        --tree) set=${2-}; shift 2 || die "--tree needs a name" "$usage" ;;
        --offline) offline=1; shift ;;
        --at) place "${2-}"; places+=("$2"); shift 2 ;;
        --) shift; break ;;
        -*) die "unknown option: $1" "$usage" ;;
        *) break ;;
        esac
    done
    [ $# -gt 0 ] || die "no command given" "$usage"
    case $(pwd -P)/ in
    /usr/* | /etc/*)
        die "cannot work under $PWD: the tree's own /usr and /etc take its place" "clone elsewhere"
        ;;
    /.*) die "cannot work under $PWD: hidden folders of / are not shown" "clone elsewhere" ;;
    esac
    local tree unshare=(unshare --mount)
    tree=$("$image_dir/tree.sh" "$set")
    if [ "$(id -u)" != 0 ]; then unshare+=(--user --map-root-user); fi
    if [ -n "$offline" ]; then unshare+=(--net); fi
    "${unshare[@]}" true 2>/dev/null || die "this machine does not let us make a mount namespace" \
        "run as root, or allow user namespaces: see image/README.md"
    exec "${unshare[@]}" bash "$image_dir/enter-inner.sh" "$tree" "$PWD" \
        "${#places[@]}" "${places[@]}" "$@"
}

# A place is made in the new root, so nothing of the host or of a tree may stand there.
place() {
    local folder=${1%%:*} path=${1#*:} top
    top=$(cut -d/ -f2 <<<"$path")
    # A Nix has its store at /nix and nowhere else: the host's, if there is one, is hidden.
    [ -d "$folder" ] && [ "${path#/}" != "$path" ] && [ -n "$top" ] ||
        die "--at needs FOLDER:PATH: a folder, and an absolute path" "got: $1"
    [ ! -e "/$top" ] || [ "$path" = /nix ] ||
        die "/$top stands on this machine, and the build needs that place" \
            "move it; if it is the checkout, clone elsewhere"
}

main "$@"
