# Unpacks the packages of a set; none of their scripts is run. Through a pipe, so that no progress is
# drawn for a terminal that is not there.
mkdir "$out"
sh "$unpack" "$out" <"$packagesPath" 2>&1 | cat
