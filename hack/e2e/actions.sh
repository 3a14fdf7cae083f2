# shellcheck shell=bash
# Every action of native policies, of both kinds and in both directions, beside Kubernetes' policies that say the opposite: on a
# node, between nodes, to and from outside, and through a Service. Sourced by hack/e2e.sh.

# How curl ends, and what that means.
declare -A ends=([passes]=0 [refused]=7 [silent]=28)

# ends_as MEANING FROM URL: FROM is a Pod, or the world.
ends_as() {
	local status=0 ask=(curl -sk -o /dev/null -m 3 "$3")
	if [[ $2 == world ]]; then "${ask[@]}"; else in_pod "$2" "${ask[@]}"; fi 2>/dev/null || status=$?
	((status == ends[$1])) || { echo "$2 to $3: $status, not ${ends[$1]}" && return 1; }
}

# all_end MEANING: every way of "ways", at once; tells those that end otherwise.
all_end() {
	local way pids=() pid good=0
	for way in "${ways[@]}"; do
		# shellcheck disable=SC2086 # two words
		ends_as "$1" $way &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid" || good=1; done
	return "$good"
}

quietly_all_end() { all_end "$1" >/dev/null; }

# acts KIND DIRECTION ACTION POD: a native policy of one rule, about everybody.
acts() {
	local kind=$1 direction=$2 action=$3 pod=$4
	kubectl apply -f - >/dev/null <<-END
		apiVersion: crd.antrea.io/v1beta1
		kind: $kind
		metadata: {name: acts$([[ $kind == ClusterNetworkPolicy ]] || echo ', namespace: default')}
		spec:
		  priority: 5
		  appliedTo: [{podSelector: {matchLabels: {app: $pod}}}]
		  $direction: [{name: all, action: $action}]
	END
}

# isolates DIRECTION POD: a NetworkPolicy that allows nothing.
isolates() {
	kubectl apply -f - >/dev/null <<-END
		apiVersion: networking.k8s.io/v1
		kind: NetworkPolicy
		metadata: {name: isolates}
		spec: {podSelector: {matchLabels: {app: $2}}, policyTypes: [${1^}]}
	END
}

# in_direction DIRECTION POD: of each kind of policy, all actions where everything is allowed, and those that go past or on to a
# NetworkPolicy where nothing is.
in_direction() {
	local direction=$1 pod=$2 kind action before after plural
	wait_for 20 quietly_all_end passes || fail "$direction: before: $(all_end passes)"
	for kind in ClusterNetworkPolicy NetworkPolicy; do
		plural=${kind,,}.crd.antrea.io
		for action in 'Drop passes silent' 'Reject passes refused' 'Pass passes passes' 'Pass silent silent' 'Allow silent passes'; do
			read -r action before after <<<"$action"
			if [[ $before == silent ]]; then
				isolates "$direction" "$pod"
				wait_for 20 quietly_all_end silent || fail "$direction: a NetworkPolicy does not isolate: $(all_end silent)"
			fi
			acts "$kind" "$direction" "$action" "$pod"
			wait_for 20 acts_is_realized "$plural" || fail "$kind $direction $action is not told to be realized"
			wait_for 20 quietly_all_end "$after" || fail "$kind, $direction, $action: $(all_end "$after")"
			# And it stays so, Pass among them, which ends as it begins.
			all_end "$after" || fail "$kind, $direction, $action: not any more"
			kubectl delete "$plural/acts" >/dev/null
			[[ $before == passes ]] || kubectl delete networkpolicy.networking.k8s.io/isolates >/dev/null
			wait_for 20 quietly_all_end passes || fail "$kind, $direction: $action stays: $(all_end passes)"
		done
	done
	ok "$direction: Allow, Drop, Reject and Pass of both kinds of native policies: ${#ways[@]} ways, with and without a NetworkPolicy"
}

acts_is_realized() { [[ $(kubectl get "$1/acts" -o jsonpath='{.status.phase}') == Realized ]]; }

actions() {
	local ways port name
	for name in one two; do
		kubectl apply -f - >/dev/null <<-END
			apiVersion: v1
			kind: Service
			metadata: {name: acts-$name}
			spec:
			  type: NodePort
			  externalTrafficPolicy: Local
			  selector: {app: $name}
			  ports: [{port: 80, targetPort: 8080}]
		END
	done
	port=$(kubectl get service acts-two -o jsonpath='{.spec.ports[0].nodePort}')
	ways=("right http://$TWO:8080" "left http://$TWO:8080" "world http://$NODE2:$port" "left http://$(service_address acts-two)" "right http://$(service_address acts-two)")
	in_direction ingress two
	ways=("right http://$TWO:8080" "right http://$ONE:8080" "right https://$WORLD:6443/livez" "right http://$(service_address acts-one)" "right http://$(service_address acts-two)")
	in_direction egress right
	kubectl delete service acts-one acts-two >/dev/null
}
