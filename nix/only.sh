# Some files of the image alone.
mkdir "$out"
for file in $files; do cp "$image/$file" "$out/"; done
