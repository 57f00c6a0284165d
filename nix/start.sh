# start.sh STEP: the head of every build: a busybox's programs, the probe, then the step.
set -euo pipefail
# Reproducibility: modes of what is made here depend on it; Nix's own would do, other stores may
# differ.
umask 022
cd "$NIX_BUILD_TOP"
"$seed/busybox" mkdir bin
"$seed/busybox" --install -s "$PWD/bin"
export PATH="$PWD/bin"
. "$probe"

# within TREE COMMAND...: runs a command in a locked tree; see enter.sh. Its output goes through a
# pipe: what Nix gives is a terminal of another devpts, and mkosi asks for its name.
within() {
    unshare -U -r -m -p -f sh "$enter" "$@" </dev/null 2>&1 | cat
}

. "$1"
