{
  description = "Cloister's image, built from locked Debian packages in Nix's sandbox";
  # No inputs: all that is built here is named, with its hash, in image/deb.lock and Cargo.lock.
  # nix/default.nix is the whole graph; `make image-nix` is the command for people.
  outputs = { self }: import ./nix;
}
