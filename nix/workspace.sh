# The sources as image/rust.sh lays them out for the compiler.
mkdir "$out"
within "$tools" bash "$source/image/rust.sh" --stage "$out" $rooms
