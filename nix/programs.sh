# Programs, by image/compile.sh, which asks for its folders at these places.
mkdir objects home "$out"
export PLACES="$workspace:/cloister/src $crates:/cloister/crates
    $PWD/objects:/cloister/objects $PWD/home:/cloister/home"
within "$build" bash "$compile" "$out" $chosen
