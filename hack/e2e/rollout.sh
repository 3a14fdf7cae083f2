#!/bin/bash
# How changes reach the nodes: a canary that does not work with one is given back what it had. Sourced.

uid_of() { kubectl -n kube-system get pod "$(agent_of "$1")" -o jsonpath='{.metadata.uid}'; }

plan_says() { kubectl get antreainstallation default -o json | jq -e "$1" >/dev/null; }

routed() { in_node node1 ip route get "$RIGHT" | grep -q "via $NODE2"; }

no_encapsulation() {
	patch_installation '{"trafficEncapMode": "NoEncap"}'
	acknowledge
	wait_for 10 condition_matches Progressing '^True' || fail 'NoEncap replaces no agent'
	wait_for 180 settled || fail "the installation does not settle with NoEncap: $(condition Progressing) $(condition Degraded)"
	wait_for 20 routed || fail "no route by node2's address: $(in_node node1 ip route get "$RIGHT")"
	wait_for 20 pods_talk || fail 'pods do not talk without a tunnel'
	quietly in_pod left ping -c 10 -i 0.1 -W 2 "$RIGHT" || fail 'no ICMP without a tunnel'
	patch_installation '{"trafficEncapMode": null}'
	acknowledge
	wait_for 180 settled || fail "the installation does not settle with a tunnel: $(condition Progressing)"
	wait_for 20 pods_talk || fail 'pods do not talk through the tunnel any more'
	! routed || fail 'the routes of NoEncap stay'
	patch_installation '{"rollout": null}'
	ok 'NoEncap by the AntreaInstallation, once acknowledged: the underlay routes between nodes; back to Encap'
}

# A change with which no agent gets well: no node has that link.
rollout_taken_back() {
	local before
	before=$(uid_of node1)
	quietly kubectl label node node2 rollout-canary=yes --overwrite
	patch_installation '{"transportInterface": "nosuch0", "rollout": {"autoRollback": true, "deadlineSeconds": 60,
		"canary": {"nodeSelector": {"rollout-canary": "yes"}}}}'
	wait_for 20 condition_matches Progressing '^False AcknowledgementNeeded' ||
		fail "a disruptive change does not wait: $(condition Progressing)"
	plan_says '.status.plannedWaves[0] | .name == "canary" and .first == ["node2"]' || fail 'the plan does not begin with the canary'
	plan_says '[.status.pendingChanges[].changes[]?.to // ""] | any(contains("nosuch0"))' || fail 'the plan does not show the change'
	acknowledge
	wait_for 150 condition_matches Degraded '^True CanaryFailed .*failed on node2' ||
		fail "the canary's failure is not told: $(condition Degraded) $(condition Progressing)"
	wait_for 120 condition_matches Progressing '^False RolledBack' ||
		fail "it is not taken back: $(condition Progressing) $(condition Degraded)"
	[[ $(uid_of node1) == "$before" ]] || fail 'the agent of the other node was replaced too'
	condition_matches Available '^True' || fail "not Available: $(condition Available)"
	wait_for 20 pods_talk || fail 'pods do not talk after it was taken back'
	sleep 10
	condition_matches Degraded '^True CanaryFailed .*not tried again' || fail "it is tried again: $(condition Degraded)"
	patch_installation '{"transportInterface": null, "rollout": null}'
	wait_for 60 settled || fail "the installation does not settle: $(condition Progressing) $(condition Degraded)"
	[[ $(uid_of node1) == "$before" ]] || fail 'the agent of the other node was replaced in the end'
	quietly kubectl label node node2 rollout-canary-
	ok 'a change with which the canary does not get well is taken back, and no other node sees it'
}

# A spec in a file: what it would change is told, and nothing of it is applied.
plan_of_a_file() {
	# shellcheck disable=SC2034 # for outside
	local generation file said antctl access=$KUBECONFIG_PATH
	# shellcheck disable=SC2034
	antctl=$(project_binaries)/antctl
	file=$(mktemp)
	generation=$(kubectl get antreainstallation default -o jsonpath='{.metadata.generation}')
	kubectl get antreainstallation default -o json |
		jq '{apiVersion, kind, metadata: {name: .metadata.name}, spec: (.spec + {trafficEncapMode: "NoEncap"})}' >"$file"
	said=$(outside plan -f "$file") || fail "antctl plan -f: $said"
	[[ $said == '# Not applied.'*'spec.rollout.acknowledge'*'+ trafficEncapMode: noEncap'*'antrea-agent (Disruptive)'*'Order of Nodes'* ]] ||
		fail "antctl plan -f tells no disruptive change: $said"
	said=$(jq '.spec.version = "v9.0.0"' "$file" | outside plan -f - 2>&1) && fail "a version that is too far has a plan: $said"
	[[ $said == *UpgradeRefused*v9.0.0* ]] || fail "antctl plan -f does not say why not: $said"
	rm "$file"
	plan_says ".metadata.generation == $generation and (.metadata.annotations // {} | has(\"operator.antrea.io/proposal\") | not)" ||
		fail 'antctl plan -f changes the AntreaInstallation'
	wait_for 10 plan_says '.status | has("proposal") | not' || fail 'the answer stays'
	ok 'antctl plan -f tells what a spec in a file would change, and applies nothing'
}

rollout() {
	plan_of_a_file
	rollout_taken_back
}
