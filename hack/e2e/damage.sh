# shellcheck shell=bash
# What somebody breaks on one node: links, addresses, routes, rules, sets, settings, flows, ports, daemons. It is told by a
# condition of that node's agent, the node is as before within seconds, and the other node is not touched.
# Sourced by hack/e2e.sh; needs hack/e2e/health.sh.

# The goal is two seconds for the network and one for flows; a busy machine gets more. Sets are looked at every 15 s, for the
# kernel does not tell of them, and daemons have to start.
REPAIRED_WITHIN=10
LOOKED_AT_WITHIN=25
STARTED_WITHIN=60
# Of a kind of repair there is one Event in half a minute; that of each class of damage is waited for.
BETWEEN_EVENTS=31

# Device group of links that the agent made.
LINK_GROUP=41598

# link_state NODE LINK: flags, MTU, master and addresses; of the gateway the hardware address too. That of a tunnel is
# nobody's, and another one when it is made anew.
link_state() {
	in_node "$1" ip -o link show dev "$2" 2>/dev/null |
		sed -E "s/^[0-9]+: //; s/ (state|mode|group|qlen) [^ ]+//g; $([[ $2 == antrea-gw0 ]] || echo 's/link\/ether.*//')"
	in_node "$1" ip -o -4 addr show dev "$2" scope global 2>/dev/null | sed -E 's/^[0-9]+: //; s/valid_lft.*//'
}

# damage_state NODE: everything that an agent keeps on its node, but for flows.
damage_state() {
	local node=$1 link
	for link in antrea-gw0 antrea-tun0; do link_state "$node" "$link"; done
	in_node "$node" ip -o link show group "$LINK_GROUP" | grep -v antrea-tun0 |
		sed -E 's/^[0-9]+: //; s/ (state|mode|qlen) [^ ]+//g' | sort
	in_node "$node" ip route show table all proto 173 | sort
	in_node "$node" ip rule show | sort
	in_node "$node" bridge fdb show | grep ' dst ' | sort
	in_node "$node" ip neigh show dev antrea-gw0 nud permanent | sort
	in_node "$node" iptables-save | grep -- '^-A.*ANTREA-'
	in_node "$node" ipset save ANTREA-POD-IP 2>/dev/null | grep ^add | sort
	in_node "$node" find /var/lib/cni/networks/antrea -name '*.*.*.*' -printf '%f %s\n' | sort
	in_node "$node" find /etc/cni/net.d /opt/cni/bin -type f -printf '%p %m %s\n' | sort
	in_node "$node" cat /proc/sys/net/ipv4/{ip_forward,conf/antrea-gw0/{rp_filter,arp_announce}} 2>/dev/null
}

damage_state_is() { [[ $(damage_state "$1") == "$2" ]]; }

damages=0

# damaged WHAT REASON LIMIT COMMAND...: does it to node2; REASON is a pattern of reasons of its AgentHealthy, one of which
# has to be told.
damaged() {
	# shellcheck disable=SC2034 # For stop_watching.
	local what=$1 reason=$2 limit=$3 file=$STATE/health watcher good others broken repaired told
	shift 3
	wait_for 60 agent_condition_is node2 AgentHealthy 'True ' ||
		fail "$what: node2 is not healthy to begin with: $(agent_condition node2 AgentHealthy)"
	good=$(damage_state node2) others=$(damage_state node1)
	: >"$file"
	watch_condition node2 AgentHealthy "$file"
	wait_for 10 test -s "$file" || fail "$what: no watch"
	broken=$(now_ms)
	quietly "$@" || fail "$what: cannot be done"
	wait_for "$limit" damage_state_is node2 "$good" ||
		fail "$what: after $limit s node2 has $(diff <(echo "$good") <(damage_state node2) || true)"
	repaired=$(($(now_ms) - broken))
	wait_for 30 has_turned "$file" "$broken" "^False ($reason)" ||
		fail "$what: was not told, not by $reason: $(cat "$file")"
	told=$(turned "$file" "$broken" "^False ($reason)")
	wait_for 60 has_turned "$file" "$((broken + told))" '^True' || fail "$what: is told for ever"
	stop_watching
	wait_for 30 pods_talk || fail "$what: pods do not talk afterwards"
	[[ $(damage_state node1) == "$others" ]] || fail "$what: node1 is not as before"
	agent_condition_is node1 AgentHealthy 'True ' || fail "$what: node1 says $(agent_condition node1 AgentHealthy)"
	damages=$((damages + 1))
	figure "$what: as before after $repaired ms, told after $told ms"
}

# host_damaged WHAT COMMAND...: of the node's own network.
host_damaged() {
	local what=$1
	shift
	damaged "$what" HostNetworkRepaired "$REPAIRED_WITHIN" in_node node2 "$@"
}

# A pod's link on node2.
pod_link() {
	in_node node2 ip -o link show group "$LINK_GROUP" | grep -v antrea-tun0 | sed -nE '1s/^[0-9]+: ([^@:]+).*/\1/p'
}

vsctl_node2() { kubectl -n kube-system exec "$(agent_of node2)" -c antrea-ovs -- ovs-vsctl "$@"; }

kill_ovsdb() { kill -KILL "$(ovs_process node2 ovsdb-server)"; }

# repair_event REASON WORD: an Event of node2 that tells of a repair. Of one kind there is none more in half a minute.
repair_event() {
	kubectl -n default get events --field-selector involvedObject.kind=Node,involvedObject.name=node2 -o json |
		jq -e --arg reason "$1" --arg word "$2" \
			'any(.items[]; .reason == $reason and (.message | contains($word)))' >/dev/null
}

event_tells() {
	wait_for 30 repair_event "$1" "$2" || fail "there is no Event $1 of node2 that tells of $2"
}

damage() {
	local mac peer
	damages=0
	peer=$(in_node node2 ip route show proto 173 | awk 'NR == 1 { print $1 }')
	host_damaged 'the gateway without its address' ip addr flush dev antrea-gw0
	event_tells HostNetworkRepaired antrea-gw0
	host_damaged 'a foreign address on the gateway' ip addr add 192.0.2.77/32 dev antrea-gw0
	host_damaged 'the gateway down' ip link set antrea-gw0 down
	sleep "$BETWEEN_EVENTS"
	host_damaged 'the route to the peer gone' ip route del "$peer" proto 173
	event_tells HostNetworkRepaired "$peer"
	host_damaged 'the route to the peer elsewhere' ip route replace "$peer" dev lo
	sleep "$BETWEEN_EVENTS"
	host_damaged 'the raw table flushed' iptables -t raw -F
	event_tells HostNetworkRepaired raw
	host_damaged 'nat POSTROUTING flushed' iptables -t nat -F POSTROUTING
	host_damaged 'mangle FORWARD flushed' iptables -t mangle -F FORWARD
	sleep "$BETWEEN_EVENTS"
	host_damaged 'forwarding switched off' sysctl -qw net.ipv4.ip_forward=0
	event_tells HostNetworkRepaired ip_forward
	host_damaged 'reverse path filter of the gateway' sysctl -qw net.ipv4.conf.antrea-gw0.rp_filter=1
	host_damaged 'a pod link down' ip link set "$(pod_link)" down
	host_damaged 'the records of addresses deleted' find /var/lib/cni/networks/antrea -name '*.*.*.*' -delete
	host_damaged 'the CNI configuration deleted' rm /etc/cni/net.d/10-antrea.conflist
	sleep "$BETWEEN_EVENTS"
	host_damaged 'the CNI plugin emptied' truncate -s 0 /opt/cni/bin/antrea
	event_tells HostNetworkRepaired 'CNI file antrea'
	host_damaged 'a chained plugin that cannot be executed' chmod 644 /opt/cni/bin/portmap
	damaged 'a subnet out of its set' HostNetworkRepaired "$LOOKED_AT_WITHIN" in_node node2 ipset del ANTREA-POD-IP "$peer"
	# The userspace datapath's.
	if in_node node2 ip link show antrea-tun0 >/dev/null 2>&1; then
		mac=$(in_node node2 bridge fdb show dev antrea-tun0 | awk '/ dst / { print $1; exit }')
		host_damaged 'the routing rule of local processes gone' ip rule del fwmark 0x80000000/0x80000000
		host_damaged 'the neighbour of local processes gone' ip neigh del 169.254.0.250 dev antrea-gw0
		host_damaged 'the tunnel down' ip link set antrea-tun0 down
		host_damaged 'the tunnel with another MTU' ip link set antrea-tun0 mtu 1200
		host_damaged 'the forwarding entry of the peer gone' bridge fdb del "$mac" dev antrea-tun0 dst "$NODE1"
		host_damaged 'the tunnel deleted' ip link del antrea-tun0
		host_damaged 'the gateway deleted' ip link del antrea-gw0
		damaged "the tunnel's port deleted" HostNetworkRepaired "$REPAIRED_WITHIN" vsctl_node2 del-port antrea-tun0
	fi
	damaged 'a foreign flow' FlowsRepaired "$REPAIRED_WITHIN" foreign_flow
	event_tells FlowsRepaired ''
	damaged 'a changed flow' FlowsRepaired "$REPAIRED_WITHIN" changed_flow
	damaged 'all flows deleted' FlowsRepaired "$REPAIRED_WITHIN" lost_flows
	damaged 'ovs-vswitchd killed' '.*' "$STARTED_WITHIN" kill_ovs
	damaged 'ovsdb-server killed' '.*' "$STARTED_WITHIN" kill_ovsdb
	wait_for 60 settled || fail "the installation does not settle: $(condition Degraded)"
	ok "$damages kinds of damage to a node were told and repaired, and the other node untouched"
}
