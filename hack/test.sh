#!/bin/bash
# All tests, the cheap ones first:
#   check     formatting, lints, generated files, boards and alerts, licences and sources of dependencies
#   unit      every crate: unit, property, golden; real Open vSwitch; root tests in namespaces of their own
#   node      agents, CNI plugin and Open vSwitch on nodes that are namespaces (userspace datapath)
#   kernel    the same on the kernel datapath, in a virtual machine, while the other stages run
#   cluster   a real two-node Kubernetes: operator, one AntreaInstallation, pods, policies, and nothing left
# test.sh STAGE... runs only these. KERNEL=all: all of the node suite in the virtual machine, over an hour.
. "$(dirname "$0")/lib.sh"
cd "$REPO"
need_root
export RUST_BACKTRACE=${RUST_BACKTRACE:-0}
stages=("$@")
((${#stages[@]})) || stages=(check unit node kernel cluster)

wanted() { [[ " ${stages[*]} " == *" $1 "* ]]; }

stage() {
	wanted "$1" || return 1
	say "$1: $2"
}

# Work that runs beside the stages, in process groups of its own, so that whatever it has started ends with it.
background=()
trap 'for group in "${background[@]}"; do kill -- "-$group" 2>/dev/null || true; done' EXIT

# beside LOG COMMAND...: starts it and leaves its process in $beside.
beside() {
	local log=$1
	shift
	mkdir -p "${log%/*}"
	set -m
	"$@" >"$log" 2>&1 &
	beside=$!
	set +m
	background+=("$beside")
}

# joined NAME PROCESS LOG: waits for it; shows the end of its log if it failed.
joined() {
	wait "$2" && return
	tail -n 60 "$3" >&2
	die "$1 failed; all of its output is in $3"
}

build_kubernetes() { hack/tools.sh kubernetes && hack/tools.sh agnhost && hack/tools.sh e2e; }

# What differs between the datapaths. The rest (restarts of the controller, health, traces) has been too slow in
# software for the time of a CI run: KERNEL=all.
kernel_tests=(bandwidth cni cnitool connectivity datapath failclosed::a_ spoofing hairpin)
[[ ${KERNEL:-} != all ]] || kernel_tests=()
kernel_suite() { ANTREA_BIN=$release hack/kernel-suite.sh "$suite" "${kernel_tests[@]}"; }

hack/deps.sh
if wanted node || wanted kernel; then
	ANTREA_CNI_PLUGINS=$(hack/tools.sh cni)
	export ANTREA_CNI_PLUGINS
fi

if stage check 'formatting, lints, generated files'; then
	hack/check.sh
	make -s deny
	cargo run -q -p xtask -- generate --check
	hack/monitoring.sh
fi

if wanted node || wanted kernel; then
	say 'building the node suite'
	cargo build -p antrea-agent -p antrea-cni -p antrea-controller
	export ANTREA_BIN=$REPO/target/debug
	suite=$(cargo test -p antrea-tests --test node --no-run --message-format=json 2>/dev/null |
		jq -r 'select(.executable != null and .target.name == "node") | .executable')
fi

# The virtual machine keeps one core busy for half an hour, and the other stages mostly wait.
if wanted kernel; then
	# Optimized binaries, which the cluster needs too: the machine runs in software.
	release=$(release_binaries)
	say 'kernel: two nodes as namespaces, kernel datapath in a virtual machine, beside the other stages'
	kernel_log=$CACHE/logs/kernel.log
	beside "$kernel_log" kernel_suite
	kernel=$beside
fi

if stage unit 'every crate'; then
	cargo test --workspace --exclude antrea-tests
	cargo test -p antrea-tests --lib
fi

# On a fresh machine this takes all cores for minutes.
if wanted cluster; then
	tools_log=$CACHE/logs/tools.log
	beside "$tools_log" build_kubernetes
	tools=$beside
fi

if stage node 'two nodes as namespaces, userspace datapath'; then
	"$suite" --test-threads=1
fi

if stage cluster 'a real two-node Kubernetes'; then
	joined 'building Kubernetes' "$tools" "$tools_log"
	hack/e2e.sh
fi

if wanted kernel; then
	say 'kernel: waiting for the virtual machine'
	joined 'the kernel suite' "$kernel" "$kernel_log"
	grep -E '^(test result|running [0-9])' "$kernel_log"
fi
say "passed: ${stages[*]}"
