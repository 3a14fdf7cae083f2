#!/bin/bash
# All measurements: a table, and target/bench.json.
#   bench.sh                         everything, about half an hour
#   bench.sh --only SECTION[,...]    some of it
#   bench.sh --list                  the sections
# Set ANTREA_BIN to a folder of binaries to measure others than this checkout's release builds.
. "$(dirname "$0")/lib.sh"

cd "$REPO"
say 'building antrea-bench'
cargo build --locked --profile measure -p antrea-tests --bin antrea-bench >&2 || die 'cargo build failed'
bench=$REPO/target/measure/antrea-bench
[[ ${1:-} != --list ]] || exec "$bench" --list

need_root
if [[ -z ${ANTREA_BIN:-} ]]; then
	ANTREA_BIN=$(ANTREA_PROFILE=shipped project_binaries)
	export ANTREA_BIN
fi
ANTREA_CNI_PLUGINS=$("$REPO/hack/tools.sh" cni)
export ANTREA_CNI_PLUGINS ANTREA_CACHE=$CACHE
if [[ ${1:-} != --only || ,${2:-}, == *,rivals,* ]]; then
	ANTREA_KUBERNETES=$("$REPO/hack/tools.sh" kubernetes)
	export ANTREA_KUBERNETES
fi
exec "$bench" "$@"
