# shellcheck shell=bash disable=SC2034
# What looks at a cluster by traffic of its own or by everybody's: antctl check installation, captures of packets, antctl top.
# Sourced by hack/e2e.sh; needs settings.sh.
# The gate PacketCapture stays on.

# installation_is CODE CHECKS ROW...: antctl check installation, these of its checks, ends with this exit code, has each of
# these rows, and leaves nothing.
installation_is() {
	local code=$1 checks=$2 said row status=0
	shift 2
	said=$(outside check installation -t 15s --run "$checks" 2>&1) || status=$?
	[[ $status == "$code" ]] || fail "antctl check installation ends with $status: $said"
	for row; do
		[[ $said =~ $row ]] || fail "antctl check installation does not tell $row: $said"
	done
	wait_for 60 no_test_namespace || fail 'antctl check installation leaves its Namespace'
}

no_test_namespace() { [[ $(kubectl get namespaces -o name) != *antrea-test-* ]]; }

installation_checked() {
	local row rows=()
	for row in pod-to-pod-{same-node,across-nodes} pod-to-service-{same-node,across-nodes} pod-to-itself-by-service \
		pod-to-nodeport-{own,other}-node host-to-pod-{same-node,across-nodes} host-to-service \
		egress-deny-policy ingress-deny-policy ingress-allow-policy; do
		rows+=("$row +ok")
	done
	installation_is 0 '*' "${rows[@]}"
	ok 'antctl check installation finds nothing amiss'
	# What the nodes' network loses between them: nothing that stays on a node is blamed.
	in_node node1 iptables -w -t raw -I PREROUTING -p udp --dport 4789 -j DROP
	installation_is 1 'pod-to-pod-*' 'pod-to-pod-same-node +ok' 'pod-to-pod-across-nodes +failed .*no answer'
	in_node node1 iptables -w -t raw -D PREROUTING -p udp --dport 4789 -j DROP
	ok 'antctl check installation names what a blocked tunnel breaks'
}

# captured FOLDER COUNT ARGUMENT...: antctl fetches a file of so many packets, each from or to Pod one.
captured() {
	local folder=$1 count=$2 file
	shift 2
	file=$(outside packetcapture "$@" -n "$count" -t 60s -o "$folder") || fail "antctl packetcapture $* failed: $file"
	[[ $(head -c 4 "$file" | od -An -tx1) == ' 0a 0d 0d 0a' ]] || fail "$file is no pcapng"
	# An enhanced packet block each.
	(($(packets "$file") == count)) || fail "$file has $(packets "$file") packets"
}

# Packets of a pcapng file of this machine's byte order: a block is its type, its length, and what it has.
packets() {
	od -An -v -tu4 -w4 "$1" | awk '{ word[NR] = $1 } END {
		for (at = 1; at < NR; at += word[at + 1] / 4) { if (word[at + 1] < 12) exit 1; if (word[at] == 6) count++ }
		print count + 0 }'
}

packets_captured() {
	local folder load
	patch_installation '{"featureGates": {"PacketCapture": true}}'
	wait_for 20 condition_matches Progressing '^True' || fail 'the gate PacketCapture replaces nothing'
	wait_for 150 settled || fail "the installation does not settle with PacketCapture: $(condition Progressing) $(condition Degraded)"
	folder=$(mktemp -d)
	in_pod left ping -i 0.2 -W 1 -c 600 "$TWO" >/dev/null &
	load=$!
	captured "$folder" 10 -S default/left -D default/two -f icmp
	captured "$folder" 10 -S default/left -D default/two -f icmp -d Both -p destination
	kill "$load" 2>/dev/null || true
	wait "$load" || true
	[[ -z $(kubectl get packetcaptures -o name) ]] || fail 'antctl packetcapture leaves its object'
	rm -r "$folder"
	ok 'packets are captured at the source and at the destination, on two nodes, and antctl fetches the files'
}

busiest() {
	local said
	said=$(outside top -o json -c 1) || fail "antctl top failed: $said"
	jq -e '.pods | length > 3' <<<"$said" >/dev/null || fail "antctl top does not have the Pods: $said"
	jq -e '(.notAsked | length) == 0' <<<"$said" >/dev/null || fail "antctl top did not ask everybody: $said"
	ok 'antctl top has the Pods of both nodes'
}

lookers() {
	local antctl access=$KUBECONFIG_PATH
	antctl=$(project_binaries)/antctl
	installation_checked
	packets_captured
	busiest
}
