# shellcheck shell=bash
# Nodes whose firewall is iptables-legacy: kubelet, kube-proxy, the chained plugins and the agent all have to
# find that out and make no rule of iptables-nft; the agent has its own table in nftables all the same. Sourced by
# hack/e2e.sh; the last part, for there is no way back.

# The node's own alternatives, in its own /etc; what nft holds is gone, as after a boot.
use_legacy() {
	local node=$1 tool
	for tool in {iptables,ip6tables}{,-save,-restore}; do
		in_node "$node" ln -sfn "/usr/sbin/${tool/tables/tables-legacy}" "/etc/alternatives/$tool"
	done
	stop "$node/kube-proxy"
	stop "$node/kubelet"
	in_node "$node" nft flush ruleset
	node_daemons_up "$node"
}

# Rules of a table in one of the backends.
rules() { in_node "$1" "iptables-$2-save" 2>/dev/null | grep -c '^-A' || true; }

kubelet_has_chosen() { [[ $(in_node "$1" iptables-legacy-save -t mangle) == *KUBE-* ]]; }

legacy() {
	local node before
	for node in $(node_names); do use_legacy "$node"; done
	for node in $(node_names); do
		wait_for 60 kubelet_has_chosen "$node" || fail "the kubelet of $node makes no chains in iptables-legacy"
		before=$(agent_container "$node" restartCount)
		kill_agent "$node"
		wait_for 60 restarted "$node" "$before" || fail "the agent of $node does not come back"
	done
	# hostPort's rules are made with the pod.
	kubectl delete pod two --now >/dev/null
	make_pods
	services_in iptables-legacy
	pod_to_world
	for node in $(node_names); do
		(($(rules "$node" legacy) > 10)) || fail "$node has few rules in iptables-legacy"
		(($(rules "$node" nft) == 0)) || fail "somebody on $node uses iptables-nft: $(in_node "$node" iptables-nft-save)"
	done
	ok 'on nodes with iptables-legacy nobody uses iptables-nft, and Services and masquerading work'
}
