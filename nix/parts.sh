# The parts that every profile shares, by image/pack.sh.
mkdir debs work
while read -r sha256 file; do ln -s "$file" "debs/$sha256.deb"; done <"$packagesPath"
within "$tools" bash "$recipe/image/pack.sh" "$PWD/debs" "$programs" "$PWD/work" "$out"
