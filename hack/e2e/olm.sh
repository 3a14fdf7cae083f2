# shellcheck shell=bash
# Installs from olm/bundle as the Operator Lifecycle Manager does: definitions, ServiceAccount and roles, Deployment.
# `xtask install-plan` stands in for OLM. Sourced by hack/e2e.sh.

OLM_NAMESPACE=antrea-operator

# xtask ARGUMENT...: of the build that the images are of, where it has one.
xtask() {
	if [[ -x ${ANTREA_RELEASE:-}/xtask ]]; then
		"$ANTREA_RELEASE/xtask" "$@"
	else
		(cd "$REPO" && cargo run -q --locked "${CI_BUILD[@]}" -p xtask -- "$@")
	fi
}

# olm_bundle VERSION: a bundle of what is on the nodes, under this version, after those that were made before.
olm_bundle() {
	local folder=$STATE/olm
	images_called "v$1"
	mkdir -p "$folder/history"
	xtask bundle --version "$1" --out "$folder/$1" --history "$folder/history"
	xtask lint-bundle "$folder/$1/bundle" || fail "bundle $1 breaks rules"
	xtask lint-bundle "$folder/$1/catalog" || fail "the catalog of $1 breaks rules"
	# The last document of a catalog is the newest bundle.
	awk '/^---/ { text = "" } { text = text $0 "\n" } END { printf "%s", text }' \
		"$folder/$1/catalog/antrea-operator/catalog.yaml" >"$folder/history/$1.yaml"
}

# olm_owned NAME: what OLM made of the bundle NAME. Definitions stay when it goes, as OLM leaves them.
olm_owned() {
	kubectl get clusterroles,clusterrolebindings -l "olm.owner=$1" -o name
	kubectl -n "$OLM_NAMESPACE" get deployments,serviceaccounts,services,roles,rolebindings -l "olm.owner=$1" -o name
}

# olm_install RULES VERSION: installs, or upgrades from what is there.
olm_install() {
	local step plan=$STATE/olm/plan.json
	xtask install-plan "$STATE/olm/$2/bundle" --rules "$1" --namespace "$OLM_NAMESPACE" \
		--env "KUBERNETES_API_SERVER=$API_SERVER" >"$plan"
	for step in 0 1 2; do
		jq ".[$step]" "$plan" | quietly kubectl apply --server-side --force-conflicts --field-manager=olm -f - ||
			fail "step $step of bundle $2 is refused"
		((step > 0)) || quietly kubectl wait --for=condition=Established --timeout=30s \
			crd/antreainstallations.operator.antrea.io crd/antreaagentinfos.crd.antrea.io crd/antreacontrollerinfos.crd.antrea.io crd/traceflows.crd.antrea.io crd/packetcaptures.crd.antrea.io \
			crd/tiers.crd.antrea.io crd/clusternetworkpolicies.crd.antrea.io crd/networkpolicies.crd.antrea.io crd/clustergroups.crd.antrea.io crd/groups.crd.antrea.io crd/clusternetworkpolicies.policy.networking.k8s.io
	done
	quietly kubectl -n "$OLM_NAMESPACE" rollout status deployment/antrea-operator --timeout=60s ||
		fail "the operator of bundle $2 is not Ready"
}

# olm_remove NAME: takes away what is owned by that bundle and by no later one.
olm_remove() {
	local object
	while read -r object; do
		quietly kubectl -n "$OLM_NAMESPACE" delete "$object" --timeout=60s || fail "$object of $1 does not go away"
	done < <(olm_owned "$1")
}

# The example that a console offers.
olm_example() {
	jq '.[2].items[] | select(.kind == "Deployment") |
		.spec.template.metadata.annotations["alm-examples"] | fromjson[0]' "$STATE/olm/plan.json"
}

# What is of ours in the cluster, whoever made it.
olm_everything() {
	managed_objects
	kubectl get crds,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings -o name |
		grep antrea || true
}

watch_conditions() {
	"$(kubernetes_bin)/kubectl" --kubeconfig "$KUBECONFIG_PATH" get antreainstallation default --watch -o json > >(
		jq --unbuffered -r '[.status.version] + [.status.conditions[]? | "\(.type)=\(.status)"] | join(" ")' >"$1"
	) &
	# shellcheck disable=SC2034 # For stop_watching.
	watcher=$!
}

olm_managers() {
	kubectl get crd antreaagentinfos.crd.antrea.io -o json --show-managed-fields |
		jq -r '.metadata.managedFields[] | select(.subresource == null).manager' | sort -u
}

olm_cycle() {
	local rules=$1 file=$STATE/olm/conditions
	olm_install "$rules" 0.1.0
	olm_example | kubectl apply -f - >/dev/null || fail 'the example is refused'
	wait_for 120 version_is v0.1.0 || fail "not installed from the bundle: $(condition Progressing) $(condition Degraded)"
	[[ $(olm_managers) == olm ]] || fail "definitions are changed by $(olm_managers), not by OLM alone"
	quietly kubectl get validatingadmissionpolicy antrea-installation || fail 'nothing checks AntreaInstallations'
	kubectl -n kube-system get pods -l app=antrea -o json | jq -e '[.items[].spec | .initContainers[]?, .containers[] | .image] |
		length > 0 and all(test("^docker.io/antrea/antrea-(agent|controller):v0.1.0$"))' >/dev/null ||
		fail 'images are not those of relatedImages'
	ok "OLM $rules: installed from the bundle; definitions are OLM's alone, images those of relatedImages"
	watch_conditions "$file"
	olm_install "$rules" 0.1.1
	olm_remove antrea-operator.v0.1.0
	wait_for 120 version_is v0.1.1 || fail "not upgraded with the bundle: $(condition Progressing) $(condition Degraded)"
	stop_watching
	! grep -qE 'Available=False|Degraded=True' "$file" || fail "the upgrade was not smooth: $(paste -sd';' "$file")"
	ok "OLM $rules: a bundle of the next version upgrades the network; Available and never Degraded meanwhile"
	remove_installation 150s 'installed by OLM'
	clean node1 node2 || fail "left on node1: $(traces node1); on node2: $(traces node2)"
	olm_remove antrea-operator.v0.1.1
	[[ -z $(olm_owned antrea-operator.v0.1.1) ]] || fail 'OLM has left something'
	quietly kubectl delete crd antreainstallations.operator.antrea.io antreaagentinfos.crd.antrea.io antreacontrollerinfos.crd.antrea.io traceflows.crd.antrea.io packetcaptures.crd.antrea.io \
		tiers.crd.antrea.io clusternetworkpolicies.crd.antrea.io networkpolicies.crd.antrea.io clustergroups.crd.antrea.io groups.crd.antrea.io clusternetworkpolicies.policy.networking.k8s.io
	[[ -z $(olm_everything) ]] || fail "left: $(olm_everything)"
	ok "OLM $rules: uninstalled, nothing is left in the cluster or on its nodes"
}

# The cluster has Antrea from its manifest; in the end it has it again.
olm() {
	local rules
	quietly kubectl delete antreainstallation default --timeout=150s || fail 'the AntreaInstallation does not go away'
	quietly kubectl delete -f "$REPO/config/antrea-operator.yaml" --ignore-not-found --timeout=90s || fail 'the manifest does not go away'
	quietly kubectl delete crd antreaagentinfos.crd.antrea.io antreacontrollerinfos.crd.antrea.io traceflows.crd.antrea.io packetcaptures.crd.antrea.io \
		tiers.crd.antrea.io clusternetworkpolicies.crd.antrea.io networkpolicies.crd.antrea.io clustergroups.crd.antrea.io groups.crd.antrea.io clusternetworkpolicies.policy.networking.k8s.io
	[[ -z $(olm_everything) ]] || fail "left of the manifest: $(olm_everything)"
	rm -rf "$STATE/olm"
	olm_bundle 0.1.0
	olm_bundle 0.1.1
	kubectl apply -f "$REPO/config/operator/namespace.yaml" >/dev/null
	for rules in ${OLM_RULES:-v0 v1}; do olm_cycle "$rules"; done
	quietly kubectl delete namespace "$OLM_NAMESPACE" --timeout=60s || fail 'the namespace does not go away'
	install_antrea
	# They have outlived their network.
	quietly kubectl delete pod one two left beside right --now --ignore-not-found || fail 'pods do not go away'
	make_pods
	wait_for 60 pods_talk || fail 'new pods do not talk'
	ok 'after OLM the manifest installs again'
}
