#!/bin/bash
# A real Kubernetes on this host: control plane, and nodes as namespaces.
#   cluster.sh up             build what is missing, start, install, wait, show
#   cluster.sh down           end it and leave nothing behind, whatever state it is in
#   cluster.sh status         what runs
#   cluster.sh kubeconfig     path of the administrator's kubeconfig
#   cluster.sh kubectl ...    kubectl for this cluster
#   cluster.sh exec NODE ...  a command (default: a shell) in a node's namespaces
#   cluster.sh logs [NAME]    follow the daemons' logs
#   cluster.sh smoke          one HTTP request between pods on two nodes
#   cluster.sh node-up NODE   add a node (node1 to node89); node-down NODE removes it
#   cluster.sh load           build the images anew and bring them to the nodes
# Settings: NODES=2  KUBE_PROXY_MODE=none|iptables|nftables  CNI=antrea|plain|none
#           ANTREA_STATE=/var/lib/antrea-cluster  ANTREA_CACHE=~/.cache/antrea-rs  BASE=(base image)
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/pki.sh"
. "$(dirname "$0")/underlay.sh"
. "$(dirname "$0")/control-plane.sh"
. "$(dirname "$0")/node.sh"
. "$(dirname "$0")/plain-cni.sh"
. "$(dirname "$0")/install.sh"
. "$(dirname "$0")/dns.sh"

CNI=${CNI:-antrea}

# One script at a time. The lock is in the cache, because the state is deleted.
lock() {
	mkdir -p "$CACHE"
	exec 9>"$CACHE/cluster.lock"
	flock -n 9 || {
		say 'waiting for another cluster.sh'
		flock 9
	}
}

# The images that the cluster needs, into every running node.
load_images() {
	local list node
	list=$("$REPO/hack/images.sh" test)
	if [[ $CNI == antrea ]]; then list+=$'\n'$("$REPO/hack/images.sh" project); fi
	echo "$list" >"$STATE/images"
	say 'bringing the images to the nodes'
	local importers=()
	for node in $(running_nodes); do
		node_images "$node" &
		importers+=($!)
	done
	for node in "${importers[@]}"; do wait "$node" || die 'an image could not be imported'; done
}

# Brings the images that the cluster uses to one node.
node_images() {
	local name archive id
	while read -r name archive id; do load_image "$1" "$name" "$archive" "$id"; done <"$STATE/images"
}

# Two nodes hold 1.5 GB in 20,000 files, which a busy disk takes half a minute to write and as long
# to delete. Memory is better, where there is plenty.
state_up() {
	local available
	mkdir -p "$STATE"
	mountpoint -q "$STATE" && return
	[[ -z $(ls -A "$STATE") ]] || return 0
	available=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
	((available < 8)) || mount -t tmpfs -o mode=755,size=6g antrea-cluster "$STATE"
}

state_down() {
	if mountpoint -q "$STATE"; then umount "$STATE"; fi
	rm -rf --one-file-system "$STATE"
}

running_nodes() {
	local directory
	for directory in "$STATE"/nodes/*/; do
		[[ -d $directory ]] || continue
		directory=${directory%/}
		running "${directory##*/}/anchor" && echo "${directory##*/}"
	done
	return 0
}

registered() { kubectl get node "$1"; }

up() {
	need_root
	"$REPO/hack/deps.sh"
	lock
	state_up
	BIN=$("$REPO/hack/tools.sh" kubernetes)
	"$REPO/hack/tools.sh" cni >/dev/null
	say 'starting the control plane'
	underlay_up
	make_pki
	control_plane_up
	local node
	say "starting $NODES nodes"
	for node in $(node_names); do node_up "$node"; done
	load_images
	say "starting kubelet$([[ $KUBE_PROXY_MODE == none ]] || echo ' and kube-proxy')"
	for node in $(node_names); do node_daemons_up "$node"; done
	for node in $(node_names); do
		wait_for 60 registered "$node" || {
			must_run "$node/kubelet"
			die "$node did not register; its log is $STATE/logs/$node-kubelet.log"
		}
	done
	case $CNI in
	antrea) install_antrea ;;
	plain) plain_cni_up ;;
	none) return ;;
	*) die "CNI=$CNI is none of antrea, plain, none" ;;
	esac
	say 'waiting for the nodes to be Ready'
	kubectl wait --for=condition=Ready node --all --timeout=120s >/dev/null || die "$(kubectl get nodes)"
	say 'starting cluster DNS'
	dns_up
	smoke
	say 'done'
	status
}

down() {
	need_root
	lock
	say 'taking the cluster down'
	# The group first: it holds every process, those of the pods too. What comes after has no user.
	cgroup_kill "$CGROUP"
	local link netns
	for link in $(ip -o link show type veth | grep -oE 'antrea-node[0-9]+' | sort -u); do ip link del "$link"; done
	for netns in /run/netns/antrea-node*; do
		[[ ! -e $netns ]] || ip netns del "${netns##*/}"
	done
	underlay_down
	cgroup_remove "$CGROUP"
	state_down
	say 'nothing is left'
}

add_node() {
	need_root
	lock
	[[ ${1:-} =~ ^node[1-8]?[0-9]$ ]] || die "a node is called node1 to node89"
	BIN=$(kubernetes_bin)
	node_up "$1"
	node_images "$1"
	node_daemons_up "$1"
	wait_for 60 registered "$1" || die "$1 did not register; its log is $STATE/logs/$1-kubelet.log"
}

remove_node() {
	need_root
	lock
	kubectl delete node "$1" --ignore-not-found --wait=false >&2
	node_down "$1"
}

status() {
	[[ -e $KUBECONFIG_PATH ]] || die 'no cluster: run make up'
	local pid name
	for pid in "$STATE"/pids/*; do
		name=${pid##*/}
		[[ -d /proc/$(<"$pid") ]] || note "$name ended; its log is $STATE/logs/$name.log"
	done
	kubectl get nodes -o wide
	echo
	kubectl get pods --all-namespaces -o wide
}

enter() {
	local node=${1:-node1}
	shift || true
	(($#)) || set -- bash
	in_node "$node" env "PATH=/opt/kubernetes:$PATH" "$@"
}

command=${1:-}
shift || true
case $command in
up | down | status | smoke) "$command" ;;
kubeconfig) echo "$KUBECONFIG_PATH" ;;
kubectl) kubectl "$@" ;;
exec) enter "$@" ;;
logs) tail -n 50 -F "$STATE/logs/${1:-*}"*.log ;;
node-up) add_node "$@" ;;
node-down) remove_node "$@" ;;
load) need_root && lock && load_images ;;
*)
	sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
