# shellcheck shell=bash
# Traceflow on the real cluster: specs that are refused, delivered and dropped packets, twenty at once. Sourced by
# hack/e2e.sh.

# A Traceflow NAME with the fields of its spec, in JSON, from Pod one.
trace() {
	kubectl apply -f - <<-END
		{"apiVersion": "crd.antrea.io/v1beta1", "kind": "Traceflow", "metadata": {"name": "$1"},
		 "spec": {"source": {"namespace": "default", "pod": "one"}, $2}}
	END
}

trace_refused() {
	local said
	if said=$(trace refused "$1" 2>&1); then fail "a Traceflow with $1 was taken"; fi
	[[ $said == *"$2"* ]] || fail "a Traceflow with $1 was refused without $2: $said"
}

trace_ended() { [[ $(kubectl get traceflow "$1" -o jsonpath='{.status.phase}') =~ ^(Succeeded|Failed)$ ]]; }

# NAME PHASE TEXT...: the trace ends so, and each text is in its results.
trace_told() {
	local name=$1 phase=$2 results text
	wait_for 60 trace_ended "$name" || fail "Traceflow $name does not end: $(kubectl get traceflow "$name" -o jsonpath='{.status}')"
	results=$(kubectl get traceflow "$name" -o jsonpath='{.status}')
	[[ $results == *"\"phase\":\"$phase\""* ]] || fail "Traceflow $name did not end as $phase: $results"
	for text in "${@:3}"; do
		[[ $results == *"$text"* ]] || fail "Traceflow $name does not tell $text: $results"
	done
}

# trace_dropped DESTINATION: a new trace to there is dropped by the policy.
trace_dropped() {
	kubectl delete traceflow dropped --ignore-not-found
	trace dropped "$1"
	wait_for 60 trace_ended dropped || return 1
	[[ $(kubectl get traceflow dropped -o jsonpath='{.status.results}') == *K8sNetworkPolicy:default/shut* ]]
}

traceflow() {
	local n to='"destination": {"namespace": "default", "pod": "two"}'
	trace_refused "$to, \"droppedOnly\": true" spec.droppedOnly
	trace_refused '"destination": {"pod": "two", "service": "two"}' spec.destination
	trace_refused '"destination": {"ip": "nonsense"}' spec.destination.ip
	trace_refused "$to, \"timeout\": 0" spec.timeout
	ok 'a Traceflow that cannot be is refused, by the name of the field'

	trace delivered "$to" >/dev/null
	trace_told delivered Succeeded SpoofGuard Delivered default/two
	trace nobody '"destination": {"namespace": "default", "pod": "nobody"}' >/dev/null
	trace_told nobody Failed spec.destination.pod
	kubectl apply -f - >/dev/null <<-END
		apiVersion: networking.k8s.io/v1
		kind: NetworkPolicy
		metadata: {name: shut}
		spec: {podSelector: {matchLabels: {app: two}}, policyTypes: [Ingress]}
	END
	wait_for 60 trace_dropped "$to" || fail "the policy is not named: $(kubectl get traceflow dropped -o jsonpath='{.status}')"
	kubectl delete networkpolicy shut >/dev/null
	ok 'a Traceflow tells delivery, the policy that drops, and what is missing'

	for ((n = 1; n <= 20; n++)); do trace "many-$n" "$to, \"timeout\": 120" >/dev/null; done
	for ((n = 1; n <= 20; n++)); do trace_told "many-$n" Succeeded; done
	ok 'twenty Traceflows at once'
	kubectl delete traceflows --all >/dev/null
}
