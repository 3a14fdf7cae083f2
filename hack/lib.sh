# shellcheck shell=bash disable=SC2034
# Settings and helpers shared by the scripts beside this file. Source it; it runs nothing.
#
# Two directories hold everything that the scripts make:
#   ANTREA_CACHE  what is slow to make and worth keeping (Kubernetes, base image, image layers)
#   ANTREA_STATE  one running cluster; `make down` deletes it

set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${ANTREA_CACHE:-${HOME:-/root}/.cache/antrea-rs}
STATE=${ANTREA_STATE:-/var/lib/antrea-cluster}

# The Go that deps.sh fetches where the host's is missing or too old.
GO_CACHE=$CACHE/go
[[ ! -x $GO_CACHE/bin/go ]] || PATH=$GO_CACHE/bin:$PATH

KUBERNETES_VERSION=v1.34.4
# Of images and the guest of kernel tests, and of Open vSwitch wherever it runs.
DEBIAN=trixie
OVS_MINIMUM=3.1.3
NODES=${NODES:-2}
KUBE_PROXY_MODE=${KUBE_PROXY_MODE:-none}
UNDERLAY=antrea-underlay
UNDERLAY_PREFIX=172.30.0
HOST_IP=$UNDERLAY_PREFIX.1
UNDERLAY_MTU=${UNDERLAY_MTU:-1500}
POD_CIDR=10.244.0.0/16
SERVICE_CIDR=10.96.0.0/16
# The first address of SERVICE_CIDR, which the API server gives to the service "kubernetes".
KUBERNETES_SERVICE_IP=10.96.0.1
CLUSTER_DNS=10.96.0.10
API_SERVER=https://$HOST_IP:6443
KUBECONFIG_PATH=$STATE/admin.kubeconfig
CGROUP=antrea-cluster
TARGET=x86_64-unknown-linux-musl
BINARIES=(antrea-operator antrea-controller antrea-agent antrea-cni antctl antrea-octant-plugin)

# ---- what the user sees -------------------------------------------------------------------------

STARTED=${STARTED:-$EPOCHREALTIME}
export STARTED

elapsed() {
	awk -v now="$EPOCHREALTIME" -v start="$STARTED" 'BEGIN { printf "%5.1fs", now - start }'
}

# A step that the user sees. All on stderr: stdout is for results.
say() { printf '\033[1m==> %s\033[0m  %s\n' "$(elapsed)" "$*" >&2; }

note() { printf '            %s\n' "$*" >&2; }

die() {
	printf '\033[1;31merror:\033[0m %s\n' "$*" >&2
	exit 1
}

need_root() { ((EUID == 0)) || die "network and mount namespaces need root: run this with sudo"; }

# wait_for SECONDS COMMAND...: until COMMAND succeeds; fails when the time is over.
wait_for() {
	local limit=$1 end
	shift
	end=$((SECONDS + limit))
	until "$@" >/dev/null 2>&1; do
		((SECONDS < end)) || return 1
		sleep 0.2
	done
}

# hash FILE...: a short name for the content of the files.
hash_files() { cat -- "$@" | sha256sum | cut -c1-12; }

# with_log FILE COMMAND...: keeps the output of a noisy command, and shows its end if it fails.
with_log() {
	local log=$1
	shift
	mkdir -p "$(dirname "$log")"
	if ! "$@" >"$log" 2>&1; then
		tail -n 30 "$log" >&2
		die "$1 failed; all of its output is in $log"
	fi
}

# How everything is built that is not for shipping; see profile ci in Cargo.toml. The compiler is clippy's, which builds
# what it lints: cargo clippy would compile every dependency, and look through every crate, once more.
CI_BUILD=(--profile ci --target "$TARGET" --config 'build.rustc-workspace-wrapper="clippy-driver"')
# A lint is the stage check's to complain of, and hides no other. (The driver's own way to write two words.)
export CLIPPY_ARGS=--cap-lints__CLIPPY_HACKERY__warn
# All at once: what is built together decides which features a dependency has, and so whether it is built anew.
CI_TARGETS=(--workspace --bins --tests)

# What is shipped besides its profile: relative relocations take 8 octets for up to 63 words instead of 24 for one, and
# a panic aborts, so that nothing unwinds. Together 2 MB of a controller's 15.
SHIPPED_FLAGS='-C link-arg=-Wl,-z,pack-relative-relocs -C force-unwind-tables=no'

# project_binaries: builds what the images hold, all at once so that every caller gets the same build; prints the
# folder. ANTREA_PROFILE=shipped builds what is shipped, ANTREA_RELEASE=FOLDER takes binaries that are there.
project_binaries() {
	local packages=() binary profile=${ANTREA_PROFILE:-ci} flags=()
	if [[ -z ${ANTREA_RELEASE:-} ]]; then
		say "building the binaries, profile $profile"
		[[ $profile != shipped ]] || flags=("CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS=$SHIPPED_FLAGS")
		for binary in "${BINARIES[@]}"; do packages+=(-p "$binary"); done
		(cd "$REPO" && env "${flags[@]}" nice -n 10 cargo build --locked --profile "$profile" --target "$TARGET" "${packages[@]}" >&2) ||
			die 'cargo build failed'
	fi
	echo "${ANTREA_RELEASE:-$REPO/target/$TARGET/$profile}"
}

# test_program TARGET: the tests of a library or the suite of this name, of the build that is there.
test_program() {
	local program
	program=$(cargo build --locked "${CI_BUILD[@]}" "${CI_TARGETS[@]}" --message-format=json |
		jq -r --arg name "$1" 'select(.executable != null and .target.name == $name and .profile.test) | .executable')
	[[ -x $program ]] || die "the build has no tests called $1"
	echo "$program"
}

# ---- control groups -----------------------------------------------------------------------------
# Every process of the cluster lives below the group antrea-cluster, so that `down` finds it without
# trusting names or pid files, even when a script was killed half way. On cgroup v1 the pids
# hierarchy plays that role; on v2 there is only one.

cgroup_is_v2() { [[ -f /sys/fs/cgroup/cgroup.controllers ]]; }

# The folders that are roots of a hierarchy which can hold our groups.
cgroup_roots() {
	if cgroup_is_v2; then
		echo /sys/fs/cgroup
	else
		local controllers
		for controllers in /sys/fs/cgroup/*; do
			[[ -f $controllers/cgroup.procs && ! -L $controllers ]] && echo "$controllers"
		done
	fi
}

cgroup_tracker() { if cgroup_is_v2; then echo /sys/fs/cgroup; else echo /sys/fs/cgroup/pids; fi; }

# cgroup_create PATH: in all hierarchies, usable by the kubelet.
cgroup_create() {
	local root part path
	for root in $(cgroup_roots); do
		path=$root
		for part in ${1//\// }; do
			# A v2 group offers to its children only what its parent passes on.
			if cgroup_is_v2; then
				sed 's/[^ ]*/+&/g' "$path/cgroup.controllers" >"$path/cgroup.subtree_control" 2>/dev/null || true
			fi
			path=$path/$part
			mkdir -p "$path"
			# A v1 cpuset without CPUs and memory refuses processes.
			local file
			for file in cpuset.cpus cpuset.mems; do
				if [[ $root == */cpuset* && -z $(<"$path/$file") ]]; then
					cat "${path%/*}/$file" >"$path/$file"
				fi
			done
		done
	done
}

cgroup_processes() {
	local group
	group=$(cgroup_tracker)/$1
	[[ -d $group ]] || return 0
	find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -un
}

# cgroup_kill PATH: ends all processes below PATH and waits until they are gone.
cgroup_kill() {
	local end=$((SECONDS + 30)) pids
	while pids=$(cgroup_processes "$1") && [[ -n $pids ]]; do
		# Word splitting wanted: one argument per process.
		# shellcheck disable=SC2086
		kill -KILL $pids 2>/dev/null || true
		((SECONDS < end)) || die "processes ${pids//$'\n'/ } of control group $1 do not die"
		sleep 0.05
	done
}

cgroup_remove() {
	local root tries
	for root in $(cgroup_roots); do
		[[ -d $root/$1 ]] || continue
		# An emptied group can stay busy for a moment.
		for tries in {1..100}; do
			find "$root/$1" -depth -type d -exec rmdir {} + 2>/dev/null && break
			[[ -d $root/$1 ]] || break
			sleep 0.05
		done
		[[ ! -d $root/$1 ]] || die "cannot remove control group $root/$1 after $tries tries"
	done
}

# ---- processes ----------------------------------------------------------------------------------

# start NAME COMMAND...: a daemon with its own group, pid file and log.
start() {
	local name=$1 group
	shift
	cgroup_create "$CGROUP/$name"
	group=$(cgroup_tracker)/$CGROUP/$name
	mkdir -p "$STATE/logs" "$STATE/pids"
	rm -f "$STATE/pids/${name//\//-}"
	# Descriptor 9 is the lock of cluster.sh, which a daemon must not keep.
	# shellcheck disable=SC2016
	setsid bash -c 'echo $$ >"$1/cgroup.procs" && echo $$ >"$2" && shift 2 && exec "$@"' \
		start "$group" "$STATE/pids/${name//\//-}" "$@" \
		</dev/null >>"$STATE/logs/${name//\//-}.log" 2>&1 9>&- &
	disown
	wait_for 10 test -s "$STATE/pids/${name//\//-}" || die "$name did not start"
}

running() {
	local pid
	pid=$(cat "$STATE/pids/${1//\//-}" 2>/dev/null) && [[ -n $pid ]] &&
		grep -q "/$CGROUP/$1\$" "/proc/$pid/cgroup" 2>/dev/null
}

stop() {
	cgroup_kill "$CGROUP/$1"
	rm -f "$STATE/pids/${1//\//-}"
}

# must_run NAME: fails with the end of the log when a daemon is gone.
must_run() {
	running "$1" && return
	tail -n 20 "$STATE/logs/${1//\//-}.log" >&2 || true
	die "$1 ended; its log is $STATE/logs/${1//\//-}.log"
}

node_ip() { echo "$UNDERLAY_PREFIX.$((10 + ${1#node}))"; }

node_netns() { echo "antrea-$1"; }

node_names() { seq -f 'node%g' 1 "$NODES"; }

# in_node NODE COMMAND...: as a process of the node: its network, mounts and host name.
in_node() {
	local node=$1 pid
	shift
	running "$node/anchor" || die "$node is not running"
	pid=$(<"$STATE/pids/$node-anchor")
	nsenter --target "$pid" --net --mount --uts --root --wd -- "$@"
}

kubectl() { "$(kubernetes_bin)/kubectl" --kubeconfig "$KUBECONFIG_PATH" "$@"; }

# Where tools.sh puts the Kubernetes binaries: named by their inputs, so that a change of version
# makes a new folder and an old checkout still finds its own.
kubernetes_bin() {
	echo "$CACHE/kubernetes/$KUBERNETES_VERSION-$(hash_files "$REPO"/tools/kubernetes/{go.mod,go.sum,main.go})"
}

cni_bin() { echo "$CACHE/cni/$(hash_files "$REPO"/tools/cni/{go.mod,go.sum})"; }
