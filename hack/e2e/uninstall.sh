# shellcheck shell=bash
# What the agents may do on a node, and what is left there when the AntreaInstallation is deleted. Sourced by
# hack/e2e.sh.

# Everything of ours on a node, one thing per line.
traces() {
	local node=$1 save
	in_node "$node" ip -o link | awk -F'[:@] *' '{ print $2 }' |
		grep -xE 'br-int|antrea-gw0|antrea-tun0|ovs-netdev|ovs-system|genev_sys_.*|vxlan_sys_.*' | sed 's/^/link /' || true
	in_node "$node" ip -o link show group 41598 | awk '{ print "link of a pod " $2 }'
	in_node "$node" ip route show table all proto 173 | sed 's/^/route /'
	in_node "$node" ip rule | grep -w 'proto 173' || true
	for save in iptables-nft-save ip6tables-nft-save iptables-legacy-save ip6tables-legacy-save; do
		in_node "$node" "$save" 2>/dev/null | grep ANTREA | sed 's/^/rule /' || true
	done
	in_node "$node" ipset list -n | grep ANTREA | sed 's/^/set /' || true
	in_node "$node" nft list tables | grep ANTREA || true
	in_node "$node" find /etc/cni/net.d /opt/cni/bin/antrea /var/lib/cni/networks/antrea /var/run/antrea/ \
		/var/lib/antrea/ -mindepth 0 ! -type d 2>/dev/null | sed 's/^/file /' || true
}

# clean NODE...: whether nothing is left there.
clean() {
	local node
	for node; do [[ -z $(traces "$node") ]] || return 1; done
}

# capabilities NUMBER...: the set that holds these (linux/capability.h), as the kernel prints it.
capabilities() {
	local number set=0
	for number; do set=$((set | 1 << number)); done
	printf '%016x' "$set"
}

# confined CONTAINER NUMBER...: what the kernel says of each of its processes on node1.
confined() {
	local container=$1 id pid seen expected
	shift
	expected=$(capabilities "$@")
	id=$(kubectl -n kube-system get pod "$(agent_of node1)" \
		-o jsonpath="{.status.containerStatuses[?(@.name==\"$container\")].containerID}")
	[[ -n $(container_pids node1 "$id") ]] || fail "no process of $container is found"
	for pid in $(container_pids node1 "$id"); do
		# A process may end while it is looked at, which is no fault; a pipe's status would end the suite without a word.
		seen=$(awk '/^(CapEff|CapBnd|NoNewPrivs|Seccomp):/ { print $1 $2 }' "/proc/$pid/status" 2>/dev/null | xargs || true)
		[[ -z $seen || $seen == "CapEff:$expected CapBnd:$expected NoNewPrivs:1 Seccomp:2" ]] ||
			fail "$container runs with $seen"
	done
}

privileges() {
	local privileged
	privileged=$(kubectl get pods -A -l app=antrea -o json | jq -r '.items[] | .metadata.name as $pod |
		.spec | (.initContainers // []) + .containers | .[] | select(.securityContext.privileged == true) | "\($pod)/\(.name)"')
	[[ -z $privileged ]] || fail "privileged: $privileged"
	local net_admin=12 net_raw=13 sys_admin=21
	confined antrea-agent $net_admin $net_raw $sys_admin
	confined antrea-ovs $net_admin $net_raw
	ok 'no container is privileged; agent and Open vSwitch have the capabilities that they use, under seccomp'
}

# remove_installation: deletes it, and says how long it took.
remove_installation() {
	local start=$EPOCHREALTIME known
	known=$(identity)
	[[ -n $known ]] || fail 'the cluster has no identity'
	quietly kubectl delete antreainstallation default --timeout="$1" || fail 'the AntreaInstallation does not go away'
	figure "AntreaInstallation removed, $2: $(awk -v now="$EPOCHREALTIME" -v start="$start" 'BEGIN { printf "%.1f", now - start }') s"
	[[ -z $(managed_objects) || -n ${3:-} ]] || fail "left after removal: $(managed_objects)"
	[[ $(identity) == "$known" ]] || fail "the cluster's identity was $known and is $(identity)"
}

identity() { kubectl -n kube-system get configmap antrea-cluster-identity -o jsonpath='{.data.uuid}'; }

# At once, as it is: whoever removes something to install it anew waits for nothing.
install_again() {
	kubectl apply -f "$REPO/config/samples/antreainstallation.yaml" >/dev/null
	wait_for 120 settled || fail 'it cannot be installed again'
	# Pods that outlived it have lost their links, as they have lost everything on the node that led to them.
	quietly kubectl delete pod one two left beside right --now --ignore-not-found || fail 'pods do not go away'
	make_pods
	wait_for 60 pods_talk || fail 'new pods do not talk'
}

# away WAY: deletes the manifest in $STATE/manifest.yaml while pods talk, and applies it again. Nothing that runs on the nodes
# is replaced, and next to no packet is lost.
away() {
	local way=$1 file=$2 before start took
	before=$(footing)
	load_up 90
	start=$EPOCHREALTIME
	quietly kubectl delete -f "$file" --timeout=60s || fail "$way: the manifest does not go away: $(installation | jq .metadata)"
	took=$(awk -v now="$EPOCHREALTIME" -v start="$start" 'BEGIN { printf "%.1f", now - start }')
	! installation >/dev/null || fail "$way: the AntreaInstallation is still there"
	[[ $(footing) == "$before" ]] || fail "$way: deleting the manifest changed what runs: $(footing)"
	pods_talk || fail "$way: pods do not talk without an operator"
	quietly kubectl apply --server-side --force-conflicts -f "$STATE/manifest.yaml" || fail "$way: it cannot be applied again"
	kubectl wait --for=condition=Established --timeout=30s crd/antreainstallations.operator.antrea.io >/dev/null
	quietly kubectl apply -f "$REPO/config/samples/antreainstallation.yaml" || fail "$way: no AntreaInstallation can be made"
	wait_for 60 settled || fail "$way: what runs is not taken over: $(condition Degraded)"
	[[ $(footing) == "$before" ]] || fail "$way: taking over changed what runs: $(footing)"
	load_down "manifest deleted in $took s and applied again, $way" 500
}

# In kubectl's order, and the other way round, in which the operator is gone before the definition of what it looks after.
manifest() {
	local tag reversed=$STATE/manifest-reversed.json
	tag=$(sed -n 's/^[^ ]*antrea-operator:\([^ ]*\) .*/\1/p' "$STATE/images")
	render_operator "$tag" >"$STATE/manifest.yaml"
	kubectl get -f "$STATE/manifest.yaml" -o json | jq '.items |= reverse' >"$reversed"
	away 'first to last' "$STATE/manifest.yaml"
	away 'last to first' "$reversed"
	ok 'the whole manifest goes and comes back, in any order, and the network runs on'
}

removal() {
	privileges
	[[ $(managed_objects | wc -l) -gt 10 ]] || fail "too few objects are labelled: $(managed_objects)"
	local node what before
	for node in node1 node2; do
		before=$(traces "$node")
		for what in 'link br-int' 'link of a pod' 'link antrea-gw0' 'route ' 'rule ' 'set ' 'file /opt/cni/bin/antrea' \
			'file /etc/cni/net.d/10-antrea.conflist' 'file /var/lib/antrea/openvswitch/conf.db'; do
			[[ $before == *"$what"* ]] || fail "$node has no $what to remove: $before"
		done
	done
	remove_installation 150s 'two nodes that answer'
	clean node1 node2 || fail "left on node1: $(traces node1); on node2: $(traces node2)"
	ok 'deleting the AntreaInstallation removes all that it made, in the cluster and on the nodes'
	install_again
	ok 'installed again at once: new pods talk'
	removal_without_a_node
}

node_is_silent() { [[ $(kubectl get node "$1" -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}') == Unknown ]]; }

told_uncleaned() {
	local notes
	notes=$(kubectl get events.events.k8s.io -A -o jsonpath='{range .items[?(@.reason=="NodesNotCleaned")]}{.note}{"\n"}{end}')
	[[ $notes == *"$1: its kubelet does not answer"* ]]
}

# A node whose kubelet is away can be cleaned by nobody: that is said, and holds up nothing.
removal_without_a_node() {
	stop node2/kubelet
	wait_for 120 node_is_silent node2 || fail 'node2 is not found to be silent'
	remove_installation 150s 'one node silent' partly
	wait_for 10 told_uncleaned node2 || fail "no event names node2: $(kubectl get events.events.k8s.io -A)"
	clean node1 || fail "left on node1: $(traces node1)"
	ok 'a silent node does not hold up removal and is named; the others are clean'
	node_daemons_up node2
	kubectl wait --for=jsonpath='{.status.conditions[?(@.type=="Ready")].status}'=True node/node2 --timeout=60s >/dev/null ||
		note 'node2 has no network yet'
	install_again
	ok 'the silent node is back and is taken into the next installation'
}
