# The second way to the image: the whole graph, from locked files to the parts that are released.
# It shares with the first one the lock and the recipes (image/unpack.sh, compile.sh, pack.sh,
# hand-over.sh) and nothing else: other unpackers, another sandbox, no cache of ours.
#
#   seed ── tools ──┬─ workspace ─┐
#     │             │             ├─ programs ── parts ── image, image-demo
#     ├──── build tree ─ crates ──┤                          │
#     │                           └─ auditor ───────────── stated, stated-demo
#     └──── each built behind probe.sh
#                  (every arrow is a path in the store, every leaf a file with its hash in a lock)
let
  system = "x86_64-linux";
  lock = import ./lock.nix;

  # ---- leaves: one fixed output for each locked file. What was put into the store beforehand with
  # ---- the same name and hash (build.sh does, from mirrors of this machine) is not fetched.
  fetch = locked: import <nix/fetchurl.nix> {
    name = locked.file;
    inherit (locked) url sha256;
  };

  # Debian's static busybox: the first program, known by what it is (seed.hash), however it came
  # here. Nix alone cannot open a .deb, so build.sh takes it out of the locked one and puts it into
  # the store; the builder's name is what Nix prints when nobody has done that.
  seed = derivation {
    name = "busybox-static";
    inherit system;
    builder = "/run-nix/build.sh-first-to-put-the-seed-into-the-store";
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
    outputHash = builtins.head (builtins.match "([^\n]*)\n" (builtins.readFile ./seed.hash));
  };

  # ---- steps: each is a short script, run by the seed behind the probe
  step = name: script: inputs: derivation ({
    inherit name system;
    builder = "${seed}/busybox";
    args = [ "sh" ./start.sh script ];
    inherit seed;
    probe = ./probe.sh;
    enter = ./enter.sh;
    # Fetched or copied, these would cost more than they save.
    allowSubstitutes = false;
  } // inputs);

  # A list for a script, as a file: it can be longer than an environment may be.
  list = f: items: builtins.concatStringsSep "" (map (i: f i + "\n") items);

  tree = set: step "cloister-${set}" ./tree.sh {
    unpack = ../image/unpack.sh;
    passAsFile = [ "packages" ];
    packages = list (p: "${p.name} ${fetch p}") (lock.set set);
  };
  tools = tree "tools";
  build = tree "build";

  crates = step "cloister-crates" ./crates.sh {
    passAsFile = [ "crates" ];
    crates = list (c: "${c.name} ${c.sha256} ${fetch c}") lock.crates;
  };

  # Of the checkout, what a step asks for and no more: a change elsewhere changes nothing here.
  sources = name: folders: files: builtins.path {
    inherit name;
    path = ../.;
    filter = path: kind: isOne (if kind == "directory" then folders else files) (relative path);
  };
  root = toString ../.;
  relative = path: builtins.substring (builtins.stringLength root + 1) (-1) path;
  isOne = patterns: path: builtins.any (p: builtins.match p path != null) patterns;

  # Where a room holds crates of their own.
  inner = "(release/(publish|sigstore)|tests/(fuzzer|signer))";
  # The rooms whose code goes into some programs, and the manifests of all.
  workspaceOf = rooms: step "cloister-workspace" ./workspace.sh {
    inherit tools rooms;
    source =
      let room = "(${builtins.replaceStrings [ " " ] [ "|" ] rooms})";
      in sources "cloister-rust" [ "[a-z]+" inner "${room}/(src|machines)(/.*)?" ] [
        "Cargo.lock" "([a-z]+/)?([a-z]+/)?Cargo.toml" "${room}/build.rs"
        "${room}/(src|machines)/.*" "image/(rooms|(lib|rust|vendor|compile|enter|enter-inner)[.]sh)"
      ];
  };
  compiled = name: rooms: chosen: step name ./programs.sh {
    inherit build crates chosen;
    workspace = workspaceOf rooms;
    compile = ../image/compile.sh;
  };
  programs = compiled "cloister-programs"
    (builtins.replaceStrings [ "\n" ] [ "" ] (builtins.readFile ../image/rooms)) "";
  auditor = compiled "cloister-auditor" "attest release release/sigstore verity"
    "cloister-release/cloister-release";

  recipe = sources "cloister-recipe" [ "image" "image/(rootfs|repart|profiles)(/.*)?" ] [
    "mkosi[.]conf" "image/(deb[.]lock|root[.]list|initrd[.]modules|cmdline)"
    "image/(lib|pack|hand-over)[.]sh" "image/[a-z-]+[.]py" "image/(rootfs|repart|profiles)/.*"
  ];
  parts = step "cloister-parts" ./parts.sh {
    inherit tools programs recipe;
    passAsFile = [ "packages" ];
    packages = list (p: "${p.sha256} ${fetch p}") (lock.set "image");
  };

  imageOf = profile: step "cloister-image-${profile}" ./image.sh {
    inherit tools parts profile recipe;
  };
  image = imageOf "production";

  # What `cloister-release` says of an image: the bill of materials; and, with a configuration, the
  # UKI and what it will be measured as.
  statedOf = profile: step "cloister-stated-${profile}" ./stated.sh {
    inherit tools auditor;
    image = imageOf profile;
    # The demo's; an operator's goes here.
    configuration = ./site.toml;
    source = sources "cloister-locks" [ "[a-z]+" inner "tests/demo-model" ] [
      "mkosi[.]conf" "Cargo[.]lock" "([a-z]+/)?([a-z]+/)?Cargo.toml"
      "image/(deb|licences)[.]lock" "tests/demo-model/requirements[.]txt"
    ];
  };
  stated = statedOf "production";

  # Some files alone.
  only = name: from: files: step "cloister-${name}" ./only.sh { inherit from files; };

  shell = import ./shell.nix { inherit system lock fetch step tools build; };
in {
  packages.${system} = {
    default = image;
    inherit image stated auditor parts programs crates tools build seed;
    image-demo = imageOf "demo";
    stated-demo = statedOf "demo";
    agent = only "agent" image [ "cloister-agent" ];
    # With the configuration in site.toml.
    uki = only "uki" stated [ "cloister.efi" "disk.img" "vmlinuz" "initrd" "cmdline" ];
    measurements = only "measurements" stated [ "measurements.json" ];
    sbom = only "sbom" stated [ "sbom.spdx.json" ];
    # Fails where the sandbox is off, whatever is in the store already.
    probe = step "cloister-probe" ./ok.sh { };
  };
  devShells.${system}.default = shell.shell;
  checks.${system} = {
    inherit image stated;
    image-demo = imageOf "demo";
    stated-demo = statedOf "demo";
    probe = step "cloister-probe" ./ok.sh { };
  };
  # For build.sh: what to put into the store beforehand; "KIND SHA256 NAME STORE-PATH" each.
  leaves = builtins.unsafeDiscardStringContext (
    "seed - - ${seed}\n"
    + list (p: "package ${p.sha256} ${p.file} ${fetch p}")
      (builtins.concatMap lock.set [ "tools" "build" "image" ] ++ shell.leaves)
    + list (c: "crate ${c.sha256} ${c.file} ${fetch c}") lock.crates
  );
}
