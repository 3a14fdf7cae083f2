# shellcheck shell=bash
# What breaks is told within seconds, by the right condition with the right reason, and turns back; flows
# that somebody changes are put back; nobody reads metrics without a token. Sourced by hack/e2e.sh.

# agent_condition NODE TYPE: status and reason.
agent_condition() {
	kubectl get antreaagentinfo "$1" -o json |
		jq -r --arg type "$2" '.agentConditions[] | select(.type == $type) | "\(.status) \(.reason // "")"'
}

agent_condition_is() { [[ $(agent_condition "$1" "$2") == "$3" ]]; }

now_ms() { date +%s%3N; }

# watch_condition NODE TYPE FILE: writes down when the condition gets which status and reason, until
# stop_watching.
watch_condition() {
	local node=$1 type=$2 file=$3
	"$(kubernetes_bin)/kubectl" --kubeconfig "$KUBECONFIG_PATH" get antreaagentinfo "$node" --watch \
		--output-watch-events -o json > >(
			jq --unbuffered -r --arg type "$type" '.object.agentConditions[]? | select(.type == $type) |
				"\(.status) \(.reason // "")"' |
				while read -r line; do echo "$(now_ms) $line"; done >"$file"
		) &
	watcher=$!
}

stop_watching() {
	kill "$watcher"
	wait "$watcher" 2>/dev/null || true
}

# turned FILE SINCE PATTERN: milliseconds from SINCE to the first line with PATTERN after it.
turned() {
	awk -v since="$2" -v pattern="$3" '
		$1 >= since { line = $0; sub(/^[0-9]+ /, "", line); if (line ~ pattern) { print $1 - since; exit } }' "$1"
}

has_turned() { [[ -n $(turned "$@") ]]; }

# turns_and_turns_back WHAT NODE TYPE REASON BREAK MEND: breaks something, waits for the condition, mends it,
# waits for True. BREAK and MEND are functions.
turns_and_turns_back() {
	local what=$1 node=$2 type=$3 reason=$4 break=$5 mend=$6 file=$STATE/health watcher broken mended
	wait_for 60 agent_condition_is "$node" "$type" 'True ' || fail "$what: $type of $node is not True to begin with"
	: >"$file"
	watch_condition "$node" "$type" "$file"
	wait_for 10 test -s "$file" || fail "$what: no watch"
	broken=$(now_ms)
	"$break"
	# README: told in 0.7 to 1.0 s. A busy machine gets more.
	wait_for 10 has_turned "$file" "$broken" "^False $reason" ||
		fail "$what: $type of $node is $(agent_condition "$node" "$type"), not False $reason"
	mended=$(now_ms)
	# What mends itself has no end of its own: then both times are from its beginning.
	[[ $mend != nothing ]] || mended=$broken
	"$mend"
	wait_for 60 has_turned "$file" "$mended" '^True' || fail "$what: $type of $node does not turn back"
	figure "$what: $type of $node False ($reason) after $(turned "$file" "$broken" "^False $reason") ms, True $(
		turned "$file" "$mended" '^True'
	) ms after its $([[ $mend == nothing ]] && echo beginning || echo end)"
	stop_watching
	ok "$what is told and taken back"
}

nothing() { :; }

ovs_container() {
	kubectl -n kube-system get pod "$(agent_of "$1")" \
		-o jsonpath='{.status.containerStatuses[?(@.name=="antrea-ovs")].containerID}'
}

# ovs_process NODE NAME: pid of a daemon in the container antrea-ovs.
ovs_process() {
	local pid
	for pid in $(container_pids "$1" "$(ovs_container "$1")"); do
		if [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$2" ]]; then echo "$pid"; fi
	done | head -n1
}

kill_ovs() { kill -KILL "$(ovs_process node2 ovs-vswitchd)"; }

controller_replicas() {
	kubectl -n kube-system patch deployment antrea-controller --subresource=scale --type=merge \
		-p "{\"spec\": {\"replicas\": $1}}" >/dev/null
}

# The operator would put a Deployment that was scaled down back at once: it stands still meanwhile.
stop_controller() {
	patch_installation '{"managementState": "Paused"}'
	controller_replicas 0
}

start_controller() {
	controller_replicas 1
	patch_installation '{"managementState": "Managed"}'
}

ofctl_node2() { kubectl -n kube-system exec "$(agent_of node2)" -c antrea-ovs -- ovs-ofctl -O OpenFlow15 "$@"; }

flows_node2() { ofctl_node2 dump-flows br-int --no-stats | grep -o 'table=.*\|priority=.*' | sort; }

foreign_flow() { ofctl_node2 add-flow br-int 'table=0,priority=9999,ip,actions=drop'; }
changed_flow() { ofctl_node2 mod-flows br-int --strict 'table=0,priority=200,ip,actions=drop'; }
lost_flows() { ofctl_node2 del-flows br-int; }

flows_are() { [[ $(flows_node2) == "$1" ]]; }

flows_corrupted() {
	local good way
	good=$(flows_node2)
	for way in foreign_flow changed_flow lost_flows; do
		turns_and_turns_back "$way on node2" node2 AgentHealthy FlowsRepaired "$way" nothing
		wait_for 10 flows_are "$good" || fail "$way: the flows are not as before"
	done
	pods_talk || fail 'pods do not talk after flows were put back'
	ok 'flows that were added, changed and deleted by hand are put back'
}

# A node that cannot reach the API server cannot tell; it does as soon as it can.
api_cut() {
	local file=$STATE/health watcher restored
	: >"$file"
	watch_condition node2 AgentHealthy "$file"
	in_node node2 iptables -I OUTPUT -p tcp -d "$HOST_IP" --dport 6443 -j DROP
	# A condition that turns is what the agent wants to write at once.
	foreign_flow_by_socket
	sleep 15
	in_node node2 iptables -D OUTPUT -p tcp -d "$HOST_IP" --dport 6443 -j DROP
	restored=$(now_ms)
	wait_for 30 has_turned "$file" "$restored" '^False APIServerUnreachable' ||
		fail "the outage was not told: $(agent_condition node2 AgentHealthy)"
	wait_for 30 has_turned "$file" "$restored" '^True' || fail 'the outage is not taken back'
	figure "node2 cut from the API server for 15 s: told $(
		turned "$file" "$restored" '^False APIServerUnreachable'
	) ms after the end of it, True after $(turned "$file" "$restored" '^True') ms"
	stop_watching
	ok 'a node that was cut from the API server tells so when it is back'
}

# The API server reaches no container of a node that is cut off, so this goes by the node's own file system.
foreign_flow_by_socket() {
	nsenter -t "$(ovs_process node2 ovs-vswitchd)" -m ovs-ofctl -O OpenFlow15 add-flow \
		unix:/var/run/openvswitch/br-int.mgmt 'table=0,priority=9999,ip,actions=drop'
}

# status_of URL [TOKEN]: HTTP status of a request.
status_of() {
	curl -sk -m 5 -o /dev/null -w '%{http_code}' ${2:+-H "Authorization: Bearer $2"} "$1" || true
}

scrapers() {
	local reader nobody url name
	kubectl apply -f - >/dev/null <<-'END'
		apiVersion: v1
		kind: List
		items:
		- {apiVersion: v1, kind: ServiceAccount, metadata: {name: scraper, namespace: default}}
		- {apiVersion: v1, kind: ServiceAccount, metadata: {name: nobody, namespace: default}}
		- apiVersion: rbac.authorization.k8s.io/v1
		  kind: ClusterRole
		  metadata: {name: e2e-scraper}
		  rules: [{nonResourceURLs: [/metrics], verbs: [get]}]
		- apiVersion: rbac.authorization.k8s.io/v1
		  kind: ClusterRoleBinding
		  metadata: {name: e2e-scraper}
		  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: e2e-scraper}
		  subjects: [{kind: ServiceAccount, name: scraper, namespace: default}]
	END
	reader=$(kubectl create token scraper) nobody=$(kubectl create token nobody)
	local operator controller
	operator=$(kubectl -n antrea-operator get pods -o jsonpath='{.items[0].status.hostIP}')
	controller=$(kubectl -n kube-system get pods -l component=antrea-controller -o jsonpath='{.items[0].status.hostIP}')
	for name in "operator $operator:10352" "controller $controller:10349" "agent $(node_ip node1):10350"; do
		url=https://${name#* }/metrics name=${name% *}
		[[ $(status_of "$url") == 401 ]] || fail "$name without a token: $(status_of "$url")"
		[[ $(status_of "$url" invalid) == 401 ]] || fail "$name with an invalid token: $(status_of "$url" invalid)"
		[[ $(status_of "$url" "$nobody") == 403 ]] || fail "$name for nobody: $(status_of "$url" "$nobody")"
		[[ $(status_of "$url" "$reader") == 200 ]] || fail "$name for a reader: $(status_of "$url" "$reader")"
		[[ $(status_of "${url%metrics}readyz") == 200 ]] || fail "$name: health is not public"
	done
	kubectl delete clusterrolebinding/e2e-scraper clusterrole/e2e-scraper serviceaccount/{scraper,nobody} >/dev/null
	ok 'metrics of operator, controller and agent: 401 without a valid token, 403 without the right, else 200'
}

# as_agent TOKEN NODE: writes the AntreaAgentInfo of a node, with a mark, as who has the token.
as_agent() {
	local access=$STATE/as-agent
	kubectl config view --raw -o json | jq --arg token "$1" '.users[].user = {token: $token}' >"$access"
	kubectl get antreaagentinfo "$2" -o json | jq '.metadata.annotations["antrea.io/probe"] = "marked"' |
		"$(kubernetes_bin)/kubectl" --kubeconfig "$access" replace -f - 2>&1
}

# The token of an agent, were it stolen, changes what its own node tells and nothing of another.
own_info_only() {
	local token said
	token=$(kubectl -n kube-system create token antrea-agent --bound-object-kind Pod --bound-object-name "$(agent_of node2)")
	# The agent writes too, and of two who read the same state one is told to read again.
	wait_for 20 as_agent "$token" node2 >/dev/null || fail "the agent of node2 cannot tell its own state: $(as_agent "$token" node2)"
	said=$(as_agent "$token" node1) && fail 'the agent of node2 may change the state of node1'
	[[ $said == *'an agent may change the AntreaAgentInfo of its own Node only'* ]] || fail "the refusal says: $said"
	rm "$STATE/as-agent"
	ok 'an agent changes the state of its own node alone'
}

health() {
	scrapers
	own_info_only
	turns_and_turns_back 'ovs-vswitchd killed' node2 OpenflowConnectionUp OpenflowDisconnected kill_ovs nothing
	wait_for 60 pods_talk || fail 'pods do not talk after ovs-vswitchd was killed'
	flows_corrupted
	turns_and_turns_back 'the controller stopped' node2 ControllerConnectionUp ControllerNotFound \
		stop_controller start_controller
	wait_for 60 settled || fail "the installation does not settle: $(condition Degraded)"
	api_cut
	wait_for 60 settled || fail "the installation does not settle: $(condition Degraded)"
}
