#!/bin/bash
# Runs fuzz targets, from their seeds and from what earlier runs found worth keeping.
#   fuzz.sh                        each for a minute
#   fuzz.sh SECONDS [TARGET...]    these, or all, for as long
# An input that breaks a promise is kept in fuzz/artifacts; once mended it belongs to the seeds in fuzz/corpus.
. "$(dirname "$0")/lib.sh"
tools=$("$REPO/hack/tools.sh" fuzz)
PATH=$tools:$PATH
cd "$REPO/fuzz"
export CARGO_TARGET_DIR=$CACHE/build/fuzz
seconds=${1:-60}
targets=("${@:2}")
((${#targets[@]})) || mapfile -t targets < <(cargo +nightly fuzz list)
for target in "${targets[@]}"; do
	say "$target: $seconds s"
	mkdir -p "$CACHE/fuzz/$target"
	with_log "$CACHE/fuzz/$target.log" cargo +nightly fuzz run "$target" "$CACHE/fuzz/$target" "corpus/$target" -- \
		-max_total_time="$seconds" -max_len=8192
	note "$(grep '^Done' "$CACHE/fuzz/$target.log")"
done
