# probe.sh: the first act of every build: is Nix's sandbox on? Sourced by start.sh.
#
# Nix builds without one, and says nothing, where the kernel refuses it user namespaces and
# sandbox-fallback has its default. So we look ourselves for what only a sandbox takes away. (The
# filter of system calls proves nothing: it is there without the sandbox, too.)
sandboxed=1
outside() {
    echo "cloister: Nix's sandbox is off: $*" >&2
    sandboxed=''
}
for path in /home /root /usr /var /run /opt /etc/shadow /etc/os-release; do
    [ ! -e "$path" ] || outside "$path of the host is here"
done
# Only what a step asked for is in its store; no step asks for the recipe of another.
for path in /nix/store/*.drv; do
    [ ! -e "$path" ] || { outside "the whole store is here: $path"; break; }
done
# A network namespace of one's own has no routes.
[ "$(wc -l </proc/net/route)" -le 1 ] || outside "there is a route out"
[ "$$" -le 3 ] || outside "this is process $$, others run beside it"
[ "$(hostname)" = localhost ] || outside "the host's name is known: $(hostname)"
[ -n "$sandboxed" ] || {
    echo "          put into nix.conf: sandbox = true and sandbox-fallback = false" >&2
    exit 1
}
