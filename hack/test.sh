#!/bin/bash
# All tests, the cheap ones first:
#   check     formatting, lints, generated files, boards and alerts, licences and sources of dependencies
#   unit      every crate: unit, property, golden; real Open vSwitch; root tests in namespaces of their own
#   node      agents, CNI plugin and Open vSwitch on nodes that are namespaces (userspace datapath)
#   kernel    the same, and what can run nowhere else, on the kernel datapath, in a virtual machine
#   cluster   a real two-node Kubernetes: operator, one AntreaInstallation, pods, policies, and nothing left
# test.sh STAGE... runs only these.
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

build_kubernetes() { hack/tools.sh kubernetes && hack/tools.sh agnhost && hack/tools.sh e2e; }

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

if stage unit 'every crate'; then
	cargo test --workspace --exclude antrea-tests
	cargo test -p antrea-tests --lib
fi

# On a fresh machine this takes all cores for minutes, and the node suite mostly waits. A process group of its
# own: whatever it has started ends with it.
if wanted cluster; then
	tools_log=$CACHE/logs/tools.log
	mkdir -p "${tools_log%/*}"
	set -m
	build_kubernetes >"$tools_log" 2>&1 &
	tools=$!
	set +m
	trap 'kill -- "-$tools" 2>/dev/null || true' EXIT
fi

if stage node 'two nodes as namespaces, userspace datapath'; then
	"$suite" --test-threads=1
fi

# Before the virtual machine, which needs a core to itself.
if wanted cluster; then
	wait "$tools" || { tail -n 30 "$tools_log" >&2 && die "Kubernetes could not be built; see $tools_log"; }
	trap - EXIT
fi

if stage kernel 'two nodes as namespaces, kernel datapath in a virtual machine'; then
	# Optimized binaries, which the cluster needs too: the machine runs in software.
	release=$(release_binaries)
	ANTREA_BIN=$release hack/kernel-suite.sh "$suite"
fi

if stage cluster 'a real two-node Kubernetes'; then
	hack/e2e.sh
fi
say "passed: ${stages[*]}"
