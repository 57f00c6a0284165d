# The two lock files as lists: packages of Debian, and crates.
let
  split = by: text: builtins.filter (part: builtins.isString part && part != "")
    (builtins.split by text);
  lines = split "\n" (builtins.readFile ../image/deb.lock);
  comments = builtins.filter (words: builtins.head words == "#") (map (split " ") lines);

  # Where Debian keeps every past state of its archive; the lock says which one is meant.
  snapshot = archive:
    let named = builtins.filter (w: builtins.length w == 4 && builtins.elemAt w 1 == "snapshot"
          && builtins.elemAt w 2 == archive) comments;
    in "https://snapshot.debian.org/archive/${archive}/${builtins.elemAt (builtins.head named) 3}";

  # A name in the store may hold no "~".
  storeName = path: builtins.replaceStrings [ "~" ] [ "-" ] (baseNameOf path);

  package = line:
    let
      word = builtins.elemAt (split " " line);
      path = word 5;
      isSecurity = builtins.match "pool/updates/.*" path != null;
    in {
      name = word 0;
      sha256 = word 3;
      sets = split "," (word 6);
      file = storeName path;
      url = "${snapshot (if isSecurity then "debian-security" else "debian")}/${path}";
    };
  packages = map package (builtins.filter (line: builtins.substring 0 1 line != "#") lines);

  # Cargo.lock says of each crate which registry it is from; that is where it is fetched.
  crate = c:
    let registry = builtins.head (builtins.match ".*/([a-z.]+)-index" c.source);
    in {
      name = "${c.name}-${c.version}";
      sha256 = c.checksum;
      file = "${c.name}-${c.version}.crate";
      url = "https://${registry}/api/v1/crates/${c.name}/${c.version}/download";
    };
in {
  # base-files goes first: it brings /bin, /lib and the like as links into /usr.
  set = name:
    let
      inSet = builtins.filter (p: builtins.elem name p.sets) packages;
      parts = builtins.partition (p: p.name == "base-files") inSet;
    in parts.right ++ parts.wrong;
  crates = map crate (builtins.filter (c: c ? checksum)
    (builtins.fromTOML (builtins.readFile ../Cargo.lock)).package);
}
