#!/usr/bin/env bash
# compile.sh TOOLKIT SOURCES OUTPUT ARCHITECTURE MODULE: one cubin. Part of build.sh.
set -euo pipefail
umask 022
tools=$1 sources=$2 output=$3 architecture=$4 module=$5
mkdir -p "$output/$architecture"
flags=(-std=c++17 -arch="$architecture" -Werror all-warnings)
case $module in
attention_* | gemm*) ;;
# The same bits as the references: no two operations become one.
*) flags+=(--fmad=false) ;;
esac
cd "$sources"
exec env -i PATH=/usr/bin:/bin TMPDIR="${TMPDIR:-/tmp}" LC_ALL=C.UTF-8 \
    "$tools/bin/nvcc" -cubin "${flags[@]}" -o "$output/$architecture/$module.cubin" "$module.cu"
