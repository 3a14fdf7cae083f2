# shellcheck shell=bash
# CNI=plain: the bridge plugin and static routes in place of this project. When something fails, it
# tells whether the cluster or our network is at fault, and it is the rival in comparisons. Sourced
# by cluster.sh; needs lib.sh and node.sh.

pod_cidr() { kubectl get node "$1" -o 'jsonpath={.spec.podCIDR}'; }

plain_cni_up() {
	local node peer root
	for node in $(node_names); do
		wait_for 60 test -n "$(pod_cidr "$node")" || die "$node has got no podCIDR"
		root=$STATE/nodes/$node/root
		cp "$(cni_bin)"/{bridge,host-local,portmap,bandwidth,loopback} "$root/opt/cni/bin/"
		mkdir -p "$root/etc/cni/net.d"
		for peer in $(node_names); do
			[[ $peer == "$node" ]] ||
				in_node "$node" ip route replace "$(pod_cidr "$peer")" via "$(node_ip "$peer")"
		done
		in_node "$node" sysctl -qw net.ipv4.ip_forward=1
		in_node "$node" iptables -w -t nat -C POSTROUTING -s "$POD_CIDR" ! -d "$POD_CIDR" -j MASQUERADE 2>/dev/null ||
			in_node "$node" iptables -w -t nat -A POSTROUTING -s "$POD_CIDR" ! -d "$POD_CIDR" -j MASQUERADE
		cat >"$root/etc/cni/net.d/10-plain.conflist" <<-END
			{"cniVersion": "1.0.0", "name": "plain", "plugins": [
			  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
			   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$(pod_cidr "$node")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
			  {"type": "portmap", "capabilities": {"portMappings": true}},
			  {"type": "bandwidth", "capabilities": {"bandwidth": true}}
			]}
		END
	done
}
