# shellcheck shell=bash
# What travels: packets of every size, much of it intact, and no more of it than allowed. Sourced by
# hack/e2e.sh.

IP_ICMP_HEADERS=28

packet_sizes() {
	local mtu payload to
	mtu=$(in_pod left cat /sys/class/net/eth0/mtu)
	payload=$((mtu - IP_ICMP_HEADERS))
	for to in "$BESIDE" "$RIGHT" "$NODE1" "$NODE2" "$WORLD"; do
		quietly in_pod left ping -M 'do' -s "$payload" -c 3 -i 0.2 -W 2 "$to" || fail "no packet of $mtu octets to $to"
		if in_pod left ping -M 'do' -s $((payload + 1)) -c 1 -W 2 "$to" >/dev/null 2>&1; then
			fail "a packet of $((mtu + 1)) octets that must not be fragmented got to $to"
		fi
		quietly in_pod left ping -M dont -s 4000 -c 3 -i 0.2 -W 2 "$to" || fail "no fragmented packet to $to"
	done
	# What comes in larger than the pod's link is told so, or is cut up by the node, never lost in silence.
	if ((mtu < UNDERLAY_MTU)); then
		local said
		said=$(in_node node2 ping -M 'do' -s $((UNDERLAY_MTU - IP_ICMP_HEADERS)) -c 1 -W 2 "$LEFT" 2>&1) &&
			fail "a packet of $UNDERLAY_MTU octets got to a pod whose MTU is $mtu"
		[[ $said == *"mtu"*"$mtu"* || $said == *"too long"* ]] || fail "nobody says that a packet is too long: $said"
	fi
	quietly in_node node2 ping -M dont -s 4000 -c 3 -i 0.2 -W 2 "$LEFT" || fail 'no fragmented packet from a node'
	ok "packets of exactly the MTU ($mtu), larger ones in fragments, and with DF refused"
	local sum
	in_pod left bash -c 'head -c 4000 /dev/urandom >/tmp/datagram'
	sum=$(in_pod left sha256sum /tmp/datagram | cut -d' ' -f1)
	for to in beside right; do
		kubectl exec "$to" -- timeout 20 socat -u -b 65536 UDP-RECVFROM:7100 OPEN:/tmp/datagram,creat,trunc &
		wait_for 10 in_pod "$to" bash -c 'ss -uln | grep -q :7100' || fail "no listener on $to"
		in_pod left socat -u -b 65536 OPEN:/tmp/datagram "UDP-SENDTO:$(address "$to"):7100"
		wait $! || fail "no datagram at $to"
		[[ $(in_pod "$to" sha256sum /tmp/datagram | cut -d' ' -f1) == "$sum" ]] || fail "a damaged datagram at $to"
	done
	ok 'UDP datagrams of 4000 octets, in fragments, on the same node and across nodes'
}

# transfer FROM TO: 100 MB of noise, compared at both ends.
transfer() {
	local from=$1 to=$2 sent received server
	kubectl exec "$to" -- bash -c 'timeout 120 nc -l -p 7000 >/tmp/received' &
	server=$!
	wait_for 10 in_pod "$to" bash -c 'ss -tln | grep -q :7000' || fail "no listener on $to"
	quietly in_pod "$from" bash -c "timeout 120 nc -N $(address "$to") 7000 </tmp/noise" ||
		fail "no connection from $from to $to"
	wait "$server" || fail "the transfer from $from to $to did not end"
	sent=$(in_pod "$from" sha256sum /tmp/noise | cut -d' ' -f1)
	received=$(in_pod "$to" sha256sum /tmp/received | cut -d' ' -f1)
	[[ $sent == "$received" ]] || fail "what $to received from $from is not what was sent"
	in_pod "$to" rm /tmp/received
}

transfers() {
	in_pod left bash -c 'head -c 100000000 /dev/urandom >/tmp/noise'
	transfer left beside
	transfer left right
	in_pod left rm /tmp/noise
	ok '100 MB arrive intact on the same node and across nodes'
}

# throughput FROM TO [OPTION]...: Mbit/s of one TCP stream of 5 s.
throughput() {
	local from=$1 to=$2
	shift 2
	kubectl exec "$to" -- timeout 120 iperf3 -s -1 -p 5201 >/dev/null &
	wait_for 10 in_pod "$to" bash -c 'ss -tln | grep -q :5201' || fail "no iperf3 on $to"
	in_pod "$from" iperf3 -c "$(address "$to")" -p 5201 -J "$@" | jq '.end.sum_received.bits_per_second / 1e6 | floor'
	wait $! || true
}

# limited FROM TO: the rate that is left when the bucket is empty. The runtime asks for one of 512 MB.
limited() {
	throughput "$1" "$2" -n 525M >/dev/null
	# Since then it has filled a little.
	throughput "$1" "$2" -t 5 -O 2
}

bandwidth() {
	local free in out
	toolbox narrow node2 'kubernetes.io/ingress-bandwidth: 60M, kubernetes.io/egress-bandwidth: 30M'
	kubectl wait --for=condition=Ready --timeout=60s pod/narrow >/dev/null || fail 'the limited pod is not Ready'
	free=$(throughput left right -t 5)
	in=$(limited left narrow)
	out=$(limited narrow left)
	figure "bandwidth: without limit $free Mbit/s; limited to 60 in, $in; limited to 30 out, $out"
	((free > 150)) || fail "only $free Mbit/s without a limit"
	((in > 30 && in < 75)) || fail "$in Mbit/s into a pod that may receive 60"
	((out > 15 && out < 38)) || fail "$out Mbit/s out of a pod that may send 30"
	kubectl delete pod narrow --now --wait=false >/dev/null
	ok 'bandwidth annotations limit both directions'
}

traffic() {
	packet_sizes
	transfers
	bandwidth
}
