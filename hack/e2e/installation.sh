# shellcheck shell=bash
# The AntreaInstallation: what is refused, what is put back, and what happens to specs that
# cannot work. Sourced by hack/e2e.sh.

refused_fields() {
	local fields message
	for fields in 'mtu: 100' 'tunnelType: IPIP' 'ovs: {gateway: name-that-is-too-long}' 'trafficEncapMode: Sometimes' \
		'tunnelType: Geneve, trafficEncapMode: NoEncap' 'tunnelPort: 1234, tunnelType: GRE' 'featureGates: {NoSuchGate: true}' \
		'featureGates: {Egress: true}' 'agent: {resources: {requests: {cpu: "2"}, limits: {cpu: "1"}}}'; do
		message=$(kubectl apply -f - 2>&1 <<-END
			apiVersion: operator.antrea.io/v1alpha1
			kind: AntreaInstallation
			metadata: {name: default}
			spec: {$fields}
		END
		) && fail "accepted: $fields"
		[[ $message == *"${fields%%:*}"* ]] || fail "$fields is refused without being named: $message"
	done
	ok 'invalid fields and contradictions are refused by name'
}

image_is_ours() {
	[[ $(kubectl -n kube-system get daemonset antrea-agent -o jsonpath='{.spec.template.spec.containers[*].image}') != *evil* ]]
}

# The event names the manager and the field.
drift_is_told() {
	local notes
	notes=$(kubectl get events.events.k8s.io -A -o jsonpath='{range .items[?(@.reason=="DriftRepaired")]}{.note}{"\n"}{end}')
	[[ $notes == *image*kubectl-set* ]]
}

drift() {
	kubectl -n kube-system set image daemonset/antrea-agent antrea-agent=example.invalid/evil:1 >/dev/null
	wait_for 20 image_is_ours || fail 'drift was not put back'
	wait_for 20 drift_is_told || fail 'no event names who did it, and where'
	wait_for 60 settled || fail 'drift left something behind'
	ok 'drift is put back and attributed'
}

# What Nodes and pods of ours are: it must not change while a spec is refused.
footing() {
	kubectl -n kube-system get daemonset/antrea-agent deployment/antrea-controller \
		-o jsonpath='{range .items[*]}{.metadata.uid} {.metadata.generation}{"\n"}{end}'
	kubectl -n kube-system get pods -l 'component in (antrea-agent, antrea-controller)' \
		-o jsonpath='{range .items[*]}{.metadata.uid} {.status.containerStatuses[*].restartCount}{"\n"}{end}' | sort
}

# mend SPEC SECONDS FOOTING WHAT: a spec that can work again is taken within the time, and nothing was or is replaced
# meanwhile.
mend() {
	[[ $(footing) == "$3" ]] || fail "$4 changed what runs: $(footing)"
	patch_installation "$1"
	wait_for "$2" settled || fail "$4: no recovery: $(condition Degraded)"
	[[ $(footing) == "$3" ]] || fail "mending $4 replaced something: $(footing)"
}

# impossible SPEC REGEX UNDO: Degraded by name; nothing changes; mended by UNDO.
impossible() {
	local before
	before=$(footing)
	patch_installation "$1"
	wait_for 20 condition_matches Degraded "^True.*$2" || fail "$1: Degraded does not say $2: $(condition Degraded)"
	condition_matches Degraded 'last good configuration' || fail "$1: nothing is said of what runs"
	condition_matches Available '^True' || fail "$1: not Available: $(condition Available)"
	pods_talk || fail "$1: pods do not talk any more"
	mend "$3" 20 "$before" "$1"
}

impossible_combinations() {
	impossible '{"serviceCIDRs": ["10.244.0.0/16"]}' 'spec.serviceCIDRs: 10.244.0.0/16 overlaps the Pod range .* of Node node1' \
		'{"serviceCIDRs": null}'
	impossible '{"ovs": {"datapath": "System"}}' 'spec.ovs.datapath: .*node1' '{"ovs": null}'
	ok 'impossible combinations are Degraded by name, what ran goes on untouched, and mending them mends it'
	local tunnel
	for tunnel in Geneve GRE STT; do
		impossible "{\"tunnelType\": \"$tunnel\"}" "spec.tunnelType: $tunnel .*node1" '{"tunnelType": null}'
	done
	ok 'tunnels that the datapath of the nodes lacks (Geneve, GRE, STT) are Degraded by name'
}

preflight_is_gone() { [[ -z $(kubectl -n kube-system get daemonset antrea-preflight --ignore-not-found -o name) ]]; }

# Images that no node can get: said by node and cause, and no pod is given up for them.
missing_images() {
	local before
	before=$(footing)
	patch_installation '{"images": {"agent": {"repository": "registry.invalid/antrea-agent", "tag": "none"}}}'
	wait_for 60 condition_matches Degraded '^True.*node1.*(ErrImagePull|ImagePullBackOff).*registry.invalid' ||
		fail "Degraded does not name node and image: $(condition Degraded)"
	condition_matches Available '^True' || fail "not Available: $(condition Available)"
	pods_talk || fail 'pods do not talk while an image is missing'
	mend '{"images": null}' 60 "$before" 'a missing image'
	wait_for 20 preflight_is_gone || fail 'the preflight DaemonSet stays'
	ok 'an agent image that cannot be pulled: Degraded names node and cause, every agent goes on'
	patch_installation '{"images": {"controller": {"repository": "registry.invalid/antrea-controller", "tag": "none"}}}'
	wait_for 60 condition_matches Degraded '^True.*(ErrImagePull|ImagePullBackOff).*registry.invalid' ||
		fail "Degraded does not name the image: $(condition Degraded)"
	kubectl get --raw /apis/controlplane.antrea.io/v1beta2/networkpolicies >/dev/null || fail 'the controller is gone'
	mend '{"images": null}' 60 "$before" "the controller's missing image"
	ok 'a controller image that cannot be pulled: Degraded names the cause, the controller goes on'
}

# Everything that was made in the cluster, but for definitions and their objects, and for the cluster's identity, which
# outlives the network.
managed_objects() {
	kubectl -n kube-system get daemonsets,deployments,pods,services,configmaps,serviceaccounts,roles,rolebindings \
		-l app=antrea,component!=antrea-operator --field-selector metadata.name!=antrea-cluster-identity -o name
	kubectl get clusterroles,clusterrolebindings,apiservices,validatingwebhookconfigurations,mutatingwebhookconfigurations -l operator.antrea.io/installation -o name
}

spec() {
	refused_fields
	drift
	impossible_combinations
	missing_images
}
