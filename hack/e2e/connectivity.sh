# shellcheck shell=bash
# Who reaches whom, from where the other one sees it: pods, nodes, the world outside. Sourced by
# hack/e2e.sh.

# reach RUN FROM ADDRESS PORT: by TCP at PORT, UDP at the one after it, and ICMP; RUN is in_pod or in_node.
reach() {
	local run=$1 from=$2 to=$3 port=$4
	quietly "$run" "$from" curl -sSf -m 5 "http://$to:$port/hostname" || fail "no TCP from $from to $to"
	[[ -n $("$run" "$from" bash -c "exec 3<>/dev/udp/$to/$((port + 1)) && echo hostname >&3 && timeout 2 head -c 1 <&3") ]] ||
		fail "no UDP from $from to $to"
	quietly "$run" "$from" ping -c 3 -i 0.2 -W 2 "$to" || fail "no ICMP from $from to $to"
}

pod_to_pod() {
	local case from to
	for case in "same left $ONE" "across left $TWO" "same right $TWO" "across right $ONE"; do
		read -r case from to <<<"$case"
		reach in_pod "$from" "$to" 8080
		# No address is translated between pods.
		[[ $(in_pod "$from" curl -sf -m 5 "http://$to:8080/clientip") == "$(address "$from"):"* ]] ||
			fail "$to does not see the address of $from"
	done
	ok 'pod to pod on the same node and across nodes: TCP, UDP, ICMP, own address as source'
}

tunnel_octets() { in_node "$1" cat /sys/class/net/antrea-tun0/statistics/tx_bytes; }

# The userspace datapath offers one tunnel, a VXLAN device of the kernel; what it lacks is refused, see
# installation.sh. The kernel's datapath and its tunnels are tested in a virtual machine.
tunnel() {
	local before
	[[ $(in_node node1 ip -d link show antrea-tun0) == *vxlan* ]] || fail 'the tunnel is no VXLAN device'
	before=$(tunnel_octets node1)
	# More than all else that talks meanwhile; the device counts no Ethernet headers in userspace's frames.
	quietly in_pod left ping -c 300 -i 0.005 -s 1372 -W 2 "$RIGHT" || fail 'no ICMP from left to right'
	(($(tunnel_octets node1) - before > 300 * 1372)) || fail 'what goes to another node does not go through the tunnel'
	ok 'pods of two nodes talk through the VXLAN tunnel'
}

pod_to_world() {
	local pod node seen
	for pod in left right; do
		node=$NODE1
		[[ $pod == left ]] || node=$NODE2
		seen=$(in_pod "$pod" curl -sS -m 5 "http://$WORLD:18090/clientip") || fail "no TCP from $pod to the world"
		[[ $seen == "$node:"* ]] || fail "the world sees $seen for $pod on $node by TCP"
		seen=$(udp "$pod" "$WORLD" 18091 clientip)
		[[ $seen == "$node:"* ]] || fail "the world sees $seen for $pod on $node by UDP"
		# The world has no route to pods: an answer means that the source was the node's.
		quietly in_pod "$pod" ping -c 3 -i 0.2 -W 2 "$WORLD" || fail "no ICMP from $pod to the world"
	done
	ok "pod to the world outside with its node's address as source: TCP, UDP, ICMP"
}

pod_to_node() {
	local pod node
	for pod in left right; do
		for node in "$NODE1" "$NODE2"; do reach in_pod "$pod" "$node" 8090; done
	done
	ok 'pod to its own node and to the other: TCP, UDP, ICMP'
}

node_to_pod() {
	local node pod
	for node in node1 node2; do
		for pod in "$ONE" "$TWO"; do reach in_node "$node" "$pod" 8080; done
	done
	ok 'node to pods on itself and on the other: TCP, UDP, ICMP'
}

connectivity() {
	pod_to_pod
	tunnel
	pod_to_world
	pod_to_node
	node_to_pod
}
