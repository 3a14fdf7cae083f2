# shellcheck shell=bash
# Agents restart and are replaced while pods of two nodes talk: what breaks is a failure, what is lost is
# counted. Sourced by hack/e2e.sh.

LOAD=$STATE/load
loads=()

# load_up SECONDS: four iperf3 streams and a ping every 10 ms from left to right, and the time at which
# they began.
load_up() {
	local seconds=$1
	mkdir -p "$LOAD"
	kubectl exec right -- timeout $((seconds + 60)) iperf3 -s -1 -p 5202 >/dev/null &
	LOAD_SERVER=$!
	wait_for 10 in_pod right bash -c 'ss -tln | grep -q :5202' || fail 'no iperf3 on right'
	# Far below what the link can carry, for on two cores the rest of the cluster has to run as well; in small
	# pieces, for whole buffers at once are more than the sockets of the userspace datapath hold.
	kubectl exec left -- iperf3 -c "$RIGHT" -p 5202 -t "$seconds" -b 4M -l 4K -P 4 -J >"$LOAD/iperf3.json" &
	LOAD_STREAM=$!
	kubectl exec left -- ping -D -i 0.01 -w "$seconds" -W 1 "$RIGHT" >"$LOAD/ping" &
	LOAD_PING=$!
	loads=("$LOAD_SERVER" "$LOAD_STREAM" "$LOAD_PING")
	LOAD_BEGAN=$SECONDS LOAD_SECONDS=$seconds
	wait_for 10 test -s "$LOAD/ping" || fail 'no ping'
}

# load_down WHAT SILENCE: waits for the end of the load, and judges it. No ping may have been without an answer for longer
# than SILENCE milliseconds, nor the pings of this long be lost in all.
load_down() {
	local bytes sent lost silence
	((SECONDS - LOAD_BEGAN < LOAD_SECONDS - 3)) || fail "$1 took longer than the load of $LOAD_SECONDS s"
	wait "$LOAD_STREAM" || fail "$1: a stream broke: $(jq -r .error "$LOAD/iperf3.json")"
	wait "$LOAD_SERVER" || fail "$1: the server of the streams failed"
	wait "$LOAD_PING" || true
	loads=()
	# The last second is after all that happened: every stream must still move octets in it.
	bytes=$(jq '[.intervals[-2].streams[].bytes] | min' "$LOAD/iperf3.json")
	((bytes > 0)) || fail "$1: a stream moves nothing any more"
	read -r sent lost silence < <(ping_counts)
	((sent > LOAD_SECONDS * 50)) || fail "$1: only $sent pings were sent in $LOAD_SECONDS s"
	((silence <= $2)) || fail "$1: no answer for $silence ms, $2 are allowed"
	((lost * 10 <= $2)) || fail "$1: $lost of $sent pings lost, $(($2 / 10)) are allowed"
	figure "$1: $lost of $sent pings lost, longest silence $silence ms, 4 of 4 connections hold, $(jq '.end.sum_sent.retransmits' "$LOAD/iperf3.json") retransmits"
}

# After a failure, what still runs.
stop_loads() { ((${#loads[@]} == 0)) || kill "${loads[@]}" 2>/dev/null || true; }

# Pings sent, those lost, and the longest silence in ms. Each answer has its time; a silence is between two of them.
ping_counts() {
	awk '/icmp_seq=/ { now = substr($1, 2) + 0; if (last && now - last > gap) gap = now - last; last = now }
		/packets transmitted/ { sent = $1; got = $4 }
		END { printf "%d %d %d\n", sent, sent - got, gap * 1000 }' "$LOAD/ping"
}

agent_container() {
	kubectl -n kube-system get pod "$(agent_of "$1")" \
		-o jsonpath='{.status.containerStatuses[?(@.name=="antrea-agent")].'"$2"'}'
}

agent_is_ready() { [[ $(agent_container "$1" ready) == true ]]; }

# Kills the agent's container of a node, by the pids in its control group.
kill_agent() {
	local pids
	pids=$(container_pids "$1" "$(agent_container "$1" containerID)")
	[[ -n $pids ]] || fail "the agent's container on $1 has no process"
	# shellcheck disable=SC2086
	kill -KILL $pids
}

restarted() { (($(agent_container "$1" restartCount) > $2)) && agent_is_ready "$1"; }

agent_restarts() {
	local node before
	load_up 35
	for node in node1 node2; do
		before=$(agent_container "$node" restartCount)
		kill_agent "$node"
		wait_for 30 restarted "$node" "$before" || fail "the agent of $node does not come back"
	done
	# Nothing that forwards was touched. What gets lost is what two busy cores lose.
	load_down 'both agents killed and restarted' 1000
	ok 'agents restart under load: no connection broke'
}

agent_waits() { [[ -n $(agent_container "$1" state.waiting.reason) ]]; }

# The kubelet waits before it starts a container again that ended twice: time without an agent.
agent_down() {
	local node
	for node in node1 node2; do kill_agent "$node"; done
	for node in node1 node2; do
		wait_for 20 agent_waits "$node" || fail "the agent of $node was not down"
	done
	pods_talk || fail 'pods do not connect while no agent runs'
	quietly in_pod left ping -c 20 -i 0.05 -W 2 "$RIGHT" || fail 'no ICMP between pods while no agent runs'
	for node in node1 node2; do
		agent_waits "$node" || fail "the agent of $node came back too early for this test"
	done
	for node in node1 node2; do
		wait_for 60 agent_is_ready "$node" || fail "the agent of $node does not come back"
	done
	ok 'existing pods talk while no agent runs'
}

# images_called TAG: on every node, our images under another tag: a release that differs in its name alone.
images_called() {
	local node name
	for node in $(node_names); do
		while read -r name _; do
			[[ $name == docker.io/antrea/antrea-@(agent|controller|operator):* ]] || continue
			in_node "$node" ctr -n k8s.io images tag --force "$name" "${name%:*}:$1" >/dev/null
		done <"$STATE/images"
	done
}

# The order in which pods of this version came to be, oldest first.
pods_by_age() {
	kubectl -n kube-system get pods -l 'component in (antrea-agent, antrea-controller)' -o json |
		jq -r '.items | sort_by(.metadata.creationTimestamp)[] | "\(.metadata.labels.component) \(.spec.nodeName)
			\(.spec.containers[0].image)"' | paste -d' ' - -
}

# watch_agents FILE: writes down on how many nodes an agent is ready, each time that a pod of them changes, until
# stop_watching.
watch_agents() {
	local file=$1
	"$(kubernetes_bin)/kubectl" --kubeconfig "$KUBECONFIG_PATH" -n kube-system get pods -l component=antrea-agent --watch \
		--output-watch-events -o json > >(
			jq --unbuffered -n -r 'foreach inputs as $event ({};
				.[$event.object.metadata.name] = (if $event.type != "DELETED" and
					any($event.object.status.conditions[]?; .type == "Ready" and .status == "True")
					then $event.object.spec.nodeName else null end);
				[.[] | values] | unique | length)' >"$file"
		) &
	# shellcheck disable=SC2034 # For stop_watching.
	watcher=$!
}

# fewest_agents FILE: on how few nodes an agent was ready at once, after it was ready on both.
fewest_agents() { awk '$1 == 2 { all = 1; least = least == "" ? 2 : least } all && $1 < least { least = $1 } END { print least }' "$1"; }

agents_seen() { [[ $(tail -n1 "$1") == 2 ]]; }

version_is() { settled && [[ $(installation | jq -r .status.version) == "$1" ]]; }

agent_upgrade() {
	local old new file=$STATE/agents
	old=$(installation | jq -r .status.version)
	new=$old-next
	images_called "$new"
	watch_agents "$file"
	wait_for 10 agents_seen "$file" || fail 'no watch of the agents'
	load_up 100
	patch_installation "{\"version\": \"$new\"}"
	wait_for 90 version_is "$new" || fail "no upgrade to $new: $(condition Progressing)"
	wait_for 10 agents_seen "$file" || fail "after the upgrade agents are ready on $(tail -n1 "$file") nodes"
	stop_watching
	[[ $(fewest_agents "$file") == 1 ]] ||
		fail "agents were ready on $(fewest_agents "$file") nodes at once, not on one at least: $(paste -sd' ' "$file")"
	mapfile -t order < <(pods_by_age)
	[[ ${#order[@]} == 3 && ${order[0]} == antrea-controller* && ${order[1]} == antrea-agent* ]] ||
		fail "not the controller first: ${order[*]}"
	[[ $(printf '%s\n' "${order[@]}" | grep -c ":$new\$") == 3 ]] || fail "not all run $new: ${order[*]}"
	# In userspace Open vSwitch is what forwards: each of two nodes is silent while its pod is replaced. Then the first
	# connections find their way again.
	load_down "upgrade: controller, then agents and OVS of both nodes" 10000
	patch_installation '{"version": null}'
	wait_for 120 version_is "$old" || fail "no way back to $old: $(condition Progressing)"
	ok 'an upgrade under load replaces the controller, then node by node the agents: no connection broke'
}

restart() {
	agent_restarts
	agent_down
	agent_upgrade
}
