# `nix develop`: the locked tools and the compiler on PATH, each run in its own tree as
# image/enter.sh does it: their loader and libraries are Debian's, whatever this machine has.
{ system, lock, fetch, step, tools, build }:
let
  # Static, as Nix starts it where there is no library.
  bash = builtins.head (builtins.filter (p: p.name == "bash-static") (lock.set "nix"));
  programs = step "cloister-starters" ./shell.sh {
    inherit tools build;
    bash = fetch bash;
    inner = ../image/enter-inner.sh;
    fromTools = "mkosi systemd-repart mkfs.erofs fsck.erofs dump.erofs veritysetup zstd cpio"
      + " readelf qemu-system-x86_64 swtpm python3";
    fromBuild = "cargo rustc cc";
  };
in {
  leaves = [ bash ];
  shell = derivation {
    name = "cloister-shell";
    inherit system;
    # `nix develop` looks for this variable, and asks for a builder of this name.
    outputs = [ "out" ];
    builder = "${programs}/bin/bash";
    args = [ "-c" "echo 'this is for nix develop' >&2; exit 1" ];
    shellHook = ''export PATH="${programs}/programs:$PATH"'';
  };
}
