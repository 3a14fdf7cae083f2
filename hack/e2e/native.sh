# shellcheck shell=bash
# Policies of crd.antrea.io on the real cluster: the gate, what is refused, the document's example, Tiers, Pass, status.
# Sourced by hack/e2e.sh.

# acnp NAME TIER ACTION: what Pod one may do at Pod two, by a ClusterNetworkPolicy.
acnp() {
	kubectl apply -f - <<-END
		apiVersion: crd.antrea.io/v1beta1
		kind: ClusterNetworkPolicy
		metadata: {name: $1}
		spec:
		  tier: $2
		  priority: 5
		  appliedTo: [{podSelector: {matchLabels: {app: two}}}]
		  ingress: [{name: one, action: $3, from: [{podSelector: {matchLabels: {app: one}}}]}]
	END
}

# Whether all that the policy NAME applies to, on one node, is told to be in force.
acnp_realized() {
	kubectl get acnp "$1" -o json | jq -e '.status.phase == "Realized" and .status.observedGeneration == .metadata.generation
		and .status.currentNodesRealized == 1 and .status.desiredNodesRealized == 1' >/dev/null
}

left_gets() { quietly in_pod left curl -sSf -m 3 "http://$TWO:8080/hostname"; }

# Pod left hears nothing: curl's status for that is 28, and anything else says nothing of a policy.
left_waits() {
	local status=0
	in_pod left curl -sSf -m 3 "http://$TWO:8080/hostname" >/dev/null 2>&1 || status=$?
	((status == 28))
}

native() {
	local said policy
	patch_installation '{"featureGates": {"AntreaPolicy": true}}'
	wait_for 20 condition_matches Progressing '^True' || fail 'the gate replaces nothing'
	wait_for 150 settled || fail "the installation does not settle with AntreaPolicy: $(condition Progressing) $(condition Degraded)"
	wait_for 40 tiers_made || fail "the static Tiers are not made: $(kubectl get tiers -o name)"
	ok 'the gate is on, and the controller makes the static Tiers'

	if said=$(acnp refused application Forbid 2>&1); then fail 'an action that does not exist was taken'; fi
	[[ $said == *ingress* && $said == *action* ]] || fail "an action that does not exist is refused without its field: $said"
	awk '/^```yaml/ { on = 1; next } /^```/ { on = 0 } on' "$REPO/docs/policies.md" | kubectl apply -f - >/dev/null ||
		fail 'the example of docs/policies.md is refused'
	kubectl delete acnp tenants >/dev/null
	kubectl delete clustergroup dns >/dev/null
	ok 'what cannot be is refused by its field, and the example is taken'

	wait_for 10 connects one "$TWO:8080" || fail 'no connection before'
	acnp late application Drop >/dev/null
	wait_for 10 refused one "$TWO:8080" || fail 'Drop does not hold'
	left_gets || fail 'Drop keeps out others'
	wait_for 20 acnp_realized late || fail "not told to be realized: $(kubectl get acnp late -o jsonpath='{.status}')"
	acnp early emergency Allow >/dev/null
	wait_for 10 connects one "$TWO:8080" || fail 'a Tier that comes first does not decide'
	kubectl apply -f - >/dev/null <<-END
		apiVersion: networking.k8s.io/v1
		kind: NetworkPolicy
		metadata: {name: shut}
		spec: {podSelector: {matchLabels: {app: two}}, policyTypes: [Ingress]}
	END
	wait_for 10 left_waits || fail 'the NetworkPolicy does not hold'
	quietly connects one "$TWO:8080" || fail 'a NetworkPolicy is asked before native ones'
	acnp early emergency Pass >/dev/null
	wait_for 10 refused one "$TWO:8080" || fail 'Pass does not go on to NetworkPolicies'
	kubectl delete networkpolicy shut >/dev/null
	wait_for 10 connects one "$TWO:8080" || fail 'Pass does not go past later Tiers'
	ok 'Tiers decide in their order, Pass goes on to NetworkPolicies, and the status tells'
	for policy in late early; do kubectl delete acnp "$policy" >/dev/null; done

	patch_installation '{"featureGates": null}'
	wait_for 20 condition_matches Progressing '^True' || fail 'the gate replaces nothing on the way back'
	wait_for 150 settled || fail "the installation does not settle without AntreaPolicy: $(condition Progressing)"
	wait_for 10 connects one "$TWO:8080" || fail 'no connection afterwards'
}

tiers_made() { (($(kubectl get tiers -o name | wc -l) == 6)); }
