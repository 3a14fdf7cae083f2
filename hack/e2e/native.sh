# shellcheck shell=bash
# Policies of crd.antrea.io on the real cluster: what is refused, by the definitions and by the controller, the document's example, Tiers, Pass, status, the gate.
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
	wait_for 40 tiers_made || fail "the static Tiers are not made: $(kubectl get tiers -o name)"
	wait_for 40 webhooks_know_the_ca || fail 'the API server cannot ask the controller: no caBundle'
	ok 'the controller makes the static Tiers, and the API server can ask it'

	if said=$(acnp refused application Forbid 2>&1); then fail 'an action that does not exist was taken'; fi
	[[ $said == *ingress* && $said == *action* ]] || fail "an action that does not exist is refused without its field: $said"
	# All but that of the Kubernetes project's own, whose definition is there with its gate alone.
	awk '/^```yaml/ { on = 1; text = "---\n"; next } /^```/ { if (on && text !~ /policy\.networking/) printf "%s", text; on = 0 }
		on { text = text $0 "\n" }' "$REPO/docs/policies.md" | kubectl apply -f - >/dev/null || fail 'an example of docs/policies.md is refused'
	kubectl delete acnp tenants node-local-dns updates shop >/dev/null
	kubectl delete clustergroup dns >/dev/null
	ok 'what cannot be is refused by its field, and the example is taken'
	asked_before_it_is_written

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
	rejects
	by_account_and_group
}

is_told() { [[ $(in_pod one /agnhost connect "$TWO:8080" --timeout=3s 2>&1) == REFUSED* ]]; }

# Between nodes, and through a Service: agnhost says REFUSED where it was told so, TIMEOUT where it heard nothing.
rejects() {
	acnp told application Reject >/dev/null
	wait_for 10 is_told || fail "Reject is not told: $(in_pod one /agnhost connect "$TWO:8080" --timeout=3s 2>&1)"
	left_gets || fail 'Reject keeps out others'
	kubectl expose pod two --name=told --port=80 --target-port=8080 >/dev/null
	wait_for 10 told_through_the_service || fail "Reject is not told through a Service: $(in_pod one /agnhost connect "$(service_address told):80" --timeout=3s 2>&1)"
	kubectl delete service/told acnp/told >/dev/null
	wait_for 10 connects one "$TWO:8080" || fail 'no connection after Reject'
	ok 'Reject is told to the client, also through a Service'
}

service_address() { kubectl get service "$1" -o jsonpath='{.spec.clusterIP}'; }
told_through_the_service() { [[ $(in_pod one /agnhost connect "$(service_address told):80" --timeout=3s 2>&1) == REFUSED* ]]; }

group_is_computed() { [[ $(kubectl get clustergroup "$1" -o jsonpath='{.status.conditions[?(@.type=="GroupMembersComputed")].status}') == True ]]; }

by_account_and_group() {
	kubectl apply -f - >/dev/null <<-END
		apiVersion: crd.antrea.io/v1beta1
		kind: ClusterGroup
		metadata: {name: ones}
		spec: {podSelector: {matchLabels: {app: one}}}
	END
	wait_for 10 group_is_computed ones || fail "the group is not told to be computed: $(kubectl get clustergroup ones -o jsonpath='{.status}')"
	kubectl get --raw /apis/controlplane.antrea.io/v1beta2/clustergroupmembers/ones |
		jq -e '.totalMembers == 1 and .effectiveMembers[0].pod.name == "one"' >/dev/null || fail 'the group has other members'
	kubectl get --raw /apis/controlplane.antrea.io/v1beta2/namespaces/default/groupassociations/one |
		jq -e '[.associatedGroups[].name] == ["ones"]' >/dev/null || fail 'the Pod is in other groups'
	kubectl create serviceaccount guest >/dev/null
	pod visitor node1 'serviceAccountName: guest' <<-END
		- {name: agnhost, image: $AGNHOST, imagePullPolicy: Never, command: [/agnhost, pause]}
	END
	kubectl wait --for=condition=Ready --timeout=60s pod/visitor >/dev/null || fail 'a Pod of an account is not Ready'
	wait_for 10 connects visitor "$TWO:8080" || fail 'no connection before'
	kubectl apply -f - >/dev/null <<-END
		apiVersion: crd.antrea.io/v1beta1
		kind: ClusterNetworkPolicy
		metadata: {name: guests}
		spec:
		  priority: 5
		  appliedTo: [{serviceAccount: {name: guest, namespace: default}}]
		  egress: [{name: no, action: Drop, to: [{serviceAccount: {name: default, namespace: default}}]}]
	END
	wait_for 10 refused visitor "$TWO:8080" || fail 'a policy by ServiceAccount does not hold'
	quietly connects one "$TWO:8080" || fail 'a policy by ServiceAccount holds for others'
	kubectl delete acnp/guests clustergroup/ones pod/visitor serviceaccount/guest --wait=false >/dev/null
	ok 'groups tell their members, and ServiceAccounts stand for their Pods'
}

has_no_webhooks() { [[ -z $(kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations -l served-by=antrea-controller -o name) ]]; }

# Without the gate a policy that denies is in force no more, and with it again it is.
native_gate() {
	acnp gated application Drop >/dev/null
	wait_for 10 refused one "$TWO:8080" || fail 'Drop does not hold'
	patch_installation '{"featureGates": {"AntreaPolicy": false}}'
	wait_for 20 condition_matches Progressing '^True' || fail 'the gate replaces nothing'
	wait_for 150 settled || fail "the installation does not settle without AntreaPolicy: $(condition Progressing) $(condition Degraded)"
	wait_for 10 connects one "$TWO:8080" || fail 'a policy holds without the gate'
	wait_for 10 has_no_webhooks || fail 'the API server asks a controller that knows nothing of policies'
	patch_installation '{"featureGates": null}'
	wait_for 20 condition_matches Progressing '^True' || fail 'the gate replaces nothing on the way back'
	wait_for 150 settled || fail "the installation does not settle with AntreaPolicy: $(condition Progressing) $(condition Degraded)"
	wait_for 10 refused one "$TWO:8080" || fail 'Drop does not hold again'
	kubectl delete acnp gated >/dev/null
	wait_for 10 connects one "$TWO:8080" || fail 'no connection afterwards'
	ok 'without the gate AntreaPolicy nothing is left of native policies, and with it all is back'
}

webhooks_know_the_ca() {
	kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations -l served-by=antrea-controller -o json |
		jq -e '[.items[].webhooks[].clientConfig.caBundle // ""] | length == 7 and all(. != "")' >/dev/null
}

# What only the controller knows: refused by name, warned of, or filled in.
asked_before_it_is_written() {
	local said
	if said=$(acnp lost silver Drop 2>&1); then fail 'a policy in a Tier that does not exist was taken'; fi
	[[ $said == *'spec.tier: there is no Tier "silver"'* ]] || fail "a Tier that does not exist is not named: $said"
	kubectl create -f - >/dev/null <<-END
		apiVersion: crd.antrea.io/v1beta1
		kind: Tier
		metadata: {name: silver}
		spec: {priority: 70}
	END
	kubectl create -f - >/dev/null <<-END
		apiVersion: crd.antrea.io/v1beta1
		kind: ClusterNetworkPolicy
		metadata: {name: kept}
		spec:
		  tier: silver
		  priority: 5
		  appliedTo: [{podSelector: {matchLabels: {app: nobody}}}]
		  ingress: [{action: Drop}]
	END
	[[ $(kubectl get acnp kept -o jsonpath='{.spec.ingress[0].name}') == ingress-drop-* ]] || fail 'a rule got no name'
	wait_for 10 silver_is_kept || fail "a Tier with a policy in it can be deleted: $(kubectl delete tier silver --dry-run=server 2>&1)"
	if said=$(kubectl delete tier silver 2>&1); then fail 'a Tier with a policy in it was deleted'; fi
	if said=$(kubectl delete tier emergency 2>&1); then fail 'a Tier that always exists was deleted'; fi
	[[ $said == *'always exists'* ]] || fail "why a static Tier stays is not said: $said"
	kubectl delete acnp kept >/dev/null
	wait_for 10 quietly kubectl delete tier silver || fail 'a Tier that nobody uses cannot be deleted'
	ok 'the API server asks the controller: what refers to nothing or is in use is refused, rules get names'
}

# The controller learns of a policy a moment after the API server.
silver_is_kept() { [[ $(kubectl delete tier silver --dry-run=server 2>&1) == *'policies are in this Tier: ClusterNetworkPolicy kept'* ]]; }

tiers_made() { (($(kubectl get tiers -o name | wc -l) == 6)); }
