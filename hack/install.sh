# shellcheck shell=bash
# Installs this project into the running cluster, and tries it. Sourced by cluster.sh; needs lib.sh.

# config/ as a user applies it, with the operator's image and two of its settings changed: the
# version to install is what was just built, and the API server is reached without kube-proxy.
render_operator() {
	local tag=$1 directory=${STATE:?}/install
	mkdir -p "$directory"
	cp "$REPO/config/antrea-operator.yaml" "$directory/"
	cat >"$directory/kustomization.yaml" <<-END
		apiVersion: kustomize.config.k8s.io/v1beta1
		kind: Kustomization
		resources: [antrea-operator.yaml]
		images: [{name: antrea/antrea-operator, newTag: $tag}]
		patches:
		- patch: |
		    apiVersion: apps/v1
		    kind: Deployment
		    metadata: {name: antrea-operator, namespace: antrea-operator}
		    spec:
		      template:
		        spec:
		          containers:
		          - name: antrea-operator
		            env:
		            - {name: KUBERNETES_API_SERVER, value: "$API_SERVER"}
		            - {name: ANTREA_VERSION, value: "$tag"}
	END
	kubectl kustomize "$directory"
}

installation() { kubectl get antreainstallations.operator.antrea.io default -o json 2>/dev/null; }

# One line about the installation: whether it is done, and what it says.
installation_state() {
	jq -r --arg version "$1" '
		def condition($type): .status.conditions[]? | select(.type == $type);
		(condition("Available") // {}) as $available | (condition("Progressing") // {}) as $progressing |
		(condition("Degraded") // {}) as $degraded |
		(if $available.status == "True" and $progressing.status != "True" and $degraded.status != "True"
			and .status.version == $version then "done" else "wait" end) + " " +
		if $degraded.status == "True" then "Degraded: \($degraded.reason): \($degraded.message)"
		elif $progressing.status == "True" then "Progressing: \($progressing.message)"
		elif $available.status == "True" then "Available: \($available.message)"
		else "\($available.reason // "the operator has not reported yet"): \($available.message // "")" end'
}

# Waits for Available, and shows every change on the way.
wait_for_installation() {
	local version=$1 limit=${2:-240} end state last=''
	end=$((SECONDS + limit))
	while ((SECONDS < end)); do
		state=$(installation | installation_state "$version" || true)
		if [[ ${state#* } != "$last" ]]; then
			last=${state#* }
			note "$(elapsed) $last"
		fi
		[[ $state != done* ]] || return 0
		sleep 1
	done
	kubectl get pods -A -o wide >&2
	die "the AntreaInstallation is not Available after $limit s: $last"
}

install_antrea() {
	local tag
	tag=$(sed -n 's/^[^ ]*antrea-operator:\([^ ]*\) .*/\1/p' "$STATE/images")
	say "installing $tag"
	render_operator "$tag" | kubectl apply --server-side --force-conflicts -f - >"$STATE/logs/install.log"
	kubectl wait --for=condition=Established --timeout=30s \
		crd/antreainstallations.operator.antrea.io >/dev/null
	kubectl -n antrea-operator rollout status deployment/antrea-operator --timeout=120s >/dev/null || {
		kubectl -n antrea-operator get pods -o wide >&2
		kubectl -n antrea-operator logs deployment/antrea-operator --tail=20 >&2 || true
		die 'the operator is not Ready'
	}
	local spec='{}'
	[[ $KUBE_PROXY_MODE != none ]] || spec='{"spec": {"proxy": {"mode": "All"}}}'
	kubectl patch --local -f "$REPO/config/samples/antreainstallation.yaml" --type=merge -p "$spec" -o yaml |
		kubectl apply -f - >/dev/null
	wait_for_installation "$tag"
}

# One pod that serves on the last node, one request from the first.
smoke() {
	say 'a request from a pod on one node to a pod on another'
	local client=node1 server=node$NODES node name image=registry.k8s.io/e2e-test-images/agnhost:2.56
	kubectl delete pod smoke-client smoke-server --ignore-not-found --now >/dev/null 2>&1
	for name in client server; do
		node=${!name}
		kubectl run "smoke-$name" --image "$image" --image-pull-policy Never --restart Never \
			--overrides '{"spec": {"nodeName": "'"$node"'", "terminationGracePeriodSeconds": 0}}' \
			-- netexec --http-port=8080 >/dev/null
	done
	kubectl wait --for=condition=Ready pod/smoke-server pod/smoke-client --timeout=90s >/dev/null || {
		kubectl describe pod smoke-server smoke-client | tail -n 40 >&2
		die 'the pods of the smoke test are not Ready'
	}
	local address answer
	address=$(kubectl get pod smoke-server -o 'jsonpath={.status.podIP}')
	answer=$(kubectl exec smoke-client -- curl -sS --max-time 10 "http://$address:8080/hostname") ||
		die "smoke-client on $client gets no answer from $address:8080 on $server"
	[[ $answer == smoke-server ]] || die "http://$address:8080/hostname answered \"$answer\""
	note "smoke-client on $client: GET http://$address:8080/hostname -> $answer on $server"
	# The client's own resolver: the pod reaches cluster DNS by its Service.
	kubectl exec smoke-client -- getent hosts kubernetes.default >/dev/null || die 'smoke-client resolves no Service'
	note "smoke-client: kubernetes.default is found"
	kubectl delete pod smoke-server smoke-client --now --wait=false >/dev/null 2>&1
}
