# shellcheck shell=bash
# The network between the nodes: a bridge on the host, which is also the control plane's address and
# the nodes' way out. Sourced by cluster.sh; needs lib.sh.

# What is changed on the host beside links: one nftables table of our own, and ip_forward.
underlay_up() {
	if ! ip link show "$UNDERLAY" >/dev/null 2>&1; then
		ip link add "$UNDERLAY" type bridge
		ip link set "$UNDERLAY" mtu "$UNDERLAY_MTU"
		ip addr add "$HOST_IP/24" dev "$UNDERLAY"
	fi
	ip link set "$UNDERLAY" up
	[[ -e $STATE/ip_forward ]] || cat /proc/sys/net/ipv4/ip_forward >"$STATE/ip_forward"
	echo 1 >/proc/sys/net/ipv4/ip_forward
	# `table` then `delete` makes this idempotent: deleting what is missing would be an error.
	nft -f - <<-END
		table ip antrea-cluster
		delete table ip antrea-cluster
		table ip antrea-cluster {
			chain postrouting {
				type nat hook postrouting priority srcnat; policy accept;
				ip saddr $UNDERLAY_PREFIX.0/24 ip daddr != $UNDERLAY_PREFIX.0/24 oifname != { "lo", "$UNDERLAY" } masquerade
			}
			# What no node serves of a Service goes nowhere, whoever may answer to such an address out there.
			chain forward {
				type filter hook forward priority filter; policy accept;
				iifname "$UNDERLAY" ip daddr $SERVICE_CIDR reject with icmp host-unreachable
			}
		}
	END
}

underlay_down() {
	nft delete table ip antrea-cluster 2>/dev/null || true
	if [[ -e $STATE/ip_forward ]]; then
		cat "$STATE/ip_forward" >/proc/sys/net/ipv4/ip_forward
	fi
	if ip link show "$UNDERLAY" >/dev/null 2>&1; then ip link del "$UNDERLAY"; fi
	if [[ -e $STATE/made-run-netns && -z $(ls /run/netns) ]]; then
		umount /run/netns && rmdir /run/netns
	fi
}

# node_link NODE: a network namespace whose eth0 is a port of the bridge.
node_link_up() {
	local node=$1 netns port
	netns=$(node_netns "$node")
	port=antrea-$node
	# iproute2 makes this folder a mount point with the first namespace, and leaves it so.
	[[ -d /run/netns ]] || touch "$STATE/made-run-netns"
	if [[ ! -e /run/netns/$netns ]]; then ip netns add "$netns"; fi
	if ! ip link show "$port" >/dev/null 2>&1; then
		ip link add "$port" mtu "$UNDERLAY_MTU" type veth peer name eth0 netns "$netns" mtu "$UNDERLAY_MTU"
		ip link set "$port" master "$UNDERLAY" up
	fi
	ip -n "$netns" link set lo up
	ip -n "$netns" addr replace "$(node_ip "$node")/24" dev eth0
	ip -n "$netns" link set eth0 up
	ip -n "$netns" route replace default via "$HOST_IP"
}

node_link_down() {
	local port=antrea-$1 netns
	netns=$(node_netns "$1")
	if ip link show "$port" >/dev/null 2>&1; then ip link del "$port"; fi
	if [[ -e /run/netns/$netns ]]; then ip netns del "$netns"; fi
}
