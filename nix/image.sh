# The image of a profile, by image/hand-over.sh.
mkdir "$out"
within "$tools" bash "$recipe/image/hand-over.sh" "$parts" "$profile" "$out"
