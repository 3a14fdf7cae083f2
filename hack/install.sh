# shellcheck shell=bash
# Installs this project into the running cluster, and tries it. Sourced by cluster.sh; needs lib.sh.

install_antrea() { die 'not yet'; }

# One pod that serves on the last node, one request from the first.
smoke() {
	say 'a request from a pod on one node to a pod on the other'
	local first=node1 last=node$NODES
	kubectl apply -f - >/dev/null <<-END
		{apiVersion: v1, kind: Pod, metadata: {name: smoke-server, namespace: default}, spec: {nodeName: $last, terminationGracePeriodSeconds: 0,
		 containers: [{name: agnhost, image: registry.k8s.io/e2e-test-images/agnhost:2.56, imagePullPolicy: Never, args: [netexec, --http-port=8080]}]}}
		---
		{apiVersion: v1, kind: Pod, metadata: {name: smoke-client, namespace: default}, spec: {nodeName: $first, terminationGracePeriodSeconds: 0,
		 containers: [{name: agnhost, image: registry.k8s.io/e2e-test-images/agnhost:2.56, imagePullPolicy: Never, args: [pause]}]}}
	END
	kubectl wait --for=condition=Ready pod/smoke-server pod/smoke-client --timeout=90s >/dev/null || {
		kubectl describe pod smoke-server smoke-client | tail -n 40 >&2
		die 'the pods of the smoke test are not Ready'
	}
	local address answer
	address=$(kubectl get pod smoke-server -o 'jsonpath={.status.podIP}')
	answer=$(kubectl exec smoke-client -- curl -sS --max-time 10 "http://$address:8080/hostname") ||
		die "smoke-client on $first gets no answer from $address:8080 on $last"
	[[ $answer == smoke-server ]] || die "http://$address:8080/hostname answered \"$answer\""
	note "smoke-client ($first) -> http://$address:8080/hostname ($last): $answer"
	kubectl delete pod smoke-server smoke-client --wait=false >/dev/null
}
