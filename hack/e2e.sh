#!/bin/bash
# The cluster suite: a real two-node Kubernetes is made, looked at from outside, and taken away.
#   e2e.sh           everything below, with a selection of Kubernetes' NetworkPolicy specs
#   NETPOL=all       all of those specs; NETPOL=none: none of them
#   KEEP=1           leaves the cluster running at the end
. "$(dirname "$0")/lib.sh"
need_root

# Default deny, allow by pod and namespace, ports by number and name, CIDR with except, updates.
SELECTION='default-deny-ingress|allow traffic from pods within server namespace based on PodSelector|allow ingress traffic for a target|based on Ports|named port|enforce except clause|updated policy|deny egress from pods based on PodSelector|stacked policies'
passed=0

kubectl() { "$REPO/hack/cluster.sh" kubectl "$@"; }
ok() {
	passed=$((passed + 1))
	say "good: $*"
}
fail() {
	kubectl get pods -A -o wide >&2 || true
	die "$*"
}

# agnhost's client in a pod: connect POD ADDRESS:PORT [PROTOCOL]
connect() { kubectl exec "$1" -- /agnhost connect "$2" --timeout=3s --protocol="${3:-tcp}" 2>&1; }

# A pod that serves its name over HTTP on 8080 and UDP on 8081, on a node of our choice.
server() {
	kubectl apply -f - >/dev/null <<-END
		apiVersion: v1
		kind: Pod
		metadata: {name: $1, labels: {app: $1}}
		spec:
		  nodeName: $2
		  terminationGracePeriodSeconds: 0
		  containers:
		  - name: agnhost
		    image: registry.k8s.io/e2e-test-images/agnhost:2.56
		    imagePullPolicy: IfNotPresent
		    command: [/agnhost, netexec, --http-port=8080, --udp-port=8081]
		    ports: [{containerPort: 8080, hostPort: ${3:-0}}]
		    readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
	END
}

address() { kubectl get pod "$1" -o jsonpath='{.status.podIP}'; }

connectivity() {
	server one node1
	server two node2 18080
	kubectl wait --for=condition=Ready --timeout=60s pod/one pod/two >/dev/null || fail 'pods are not Ready'
	ok 'kubelet probes pods on both nodes'
	local one two
	one=$(address one) two=$(address two)
	[[ -z $(connect one "$two:8080") ]] || fail 'no TCP from one to two'
	[[ -z $(connect two "$one:8080") ]] || fail 'no TCP from two to one'
	[[ $(kubectl exec one -- /agnhost connect "$two:8081" --protocol=udp 2>&1) == '' ]] || fail 'no UDP'
	ok 'pod to pod across nodes, TCP and UDP'
	kubectl expose pod two --name=two --port=80 --target-port=8080 --type=NodePort >/dev/null
	local service port
	service=$(kubectl get service two -o jsonpath='{.spec.clusterIP}')
	port=$(kubectl get service two -o jsonpath='{.spec.ports[0].nodePort}')
	wait_for 20 eval "[[ -z \$(connect one $service:80) ]]" || fail 'no ClusterIP across nodes'
	wait_for 20 eval "[[ -z \$(connect two $service:80) ]]" || fail 'no ClusterIP from the endpoint itself'
	ok 'pod to ClusterIP, on another node and by hairpin'
	curl -sf -m 5 "http://$UNDERLAY_PREFIX.11:$port/hostname" >/dev/null || fail 'no NodePort on the other node'
	curl -sf -m 5 "http://$UNDERLAY_PREFIX.12:$port/hostname" >/dev/null || fail 'no NodePort on the same node'
	ok 'NodePort on both nodes'
	curl -sf -m 5 "http://$UNDERLAY_PREFIX.12:18080/hostname" >/dev/null || fail 'no hostPort'
	ok 'hostPort'
	local seen
	seen=$(kubectl exec one -- /agnhost connect "$HOST_IP:6443" --timeout=3s 2>&1) || true
	[[ -z $seen ]] || fail "no TCP to the world outside: $seen"
	ok 'pod to the world outside'
}

installation_rules() {
	local spec message
	for spec in 'mtu: 100' 'tunnelType: IPIP' 'ovs: {gateway: name-that-is-too-long}' 'trafficEncapMode: Sometimes'; do
		message=$(kubectl apply -f - 2>&1 <<-END
			apiVersion: operator.antrea.io/v1alpha1
			kind: AntreaInstallation
			metadata: {name: default}
			spec: {$spec}
		END
		) && fail "accepted: $spec"
		[[ $message == *"${spec%%:*}"* ]] || fail "$spec is refused without being named: $message"
	done
	ok 'invalid fields are refused by name'
	kubectl -n kube-system set image daemonset/antrea-agent antrea-agent=example.invalid/evil:1 >/dev/null
	wait_for 20 eval "! kubectl -n kube-system get daemonset antrea-agent -o yaml | grep -q evil" ||
		fail 'drift was not put back'
	wait_for 20 eval "kubectl get events -A -o yaml | grep -q 'kubectl-set'" || fail 'no event names who did it'
	ok 'drift is put back and attributed'
}

policies_by_api() {
	kubectl apply -f - >/dev/null <<-END
		apiVersion: networking.k8s.io/v1
		kind: NetworkPolicy
		metadata: {name: only-one}
		spec:
		  podSelector: {matchLabels: {app: two}}
		  ingress: [{from: [{podSelector: {matchLabels: {app: nobody}}}]}]
	END
	local two
	two=$(address two)
	wait_for 10 eval "[[ -n \$(connect one $two:8080) ]]" || fail 'the policy does not hold'
	kubectl get networkpolicies.controlplane.antrea.io,addressgroups,appliedtogroups >/dev/null ||
		fail 'the aggregated API does not answer'
	ok 'a policy holds, and the aggregated API shows it'
	kubectl delete networkpolicy only-one >/dev/null
	wait_for 10 eval "[[ -z \$(connect one $two:8080) ]]" || fail 'a deleted policy still holds'
	ok 'a deleted policy is gone'
}

netpol() {
	local focus=Netpol bin log=$STATE/logs/netpol.log
	[[ ${NETPOL:-some} != none ]] || return 0
	[[ ${NETPOL:-some} == all ]] || focus="Netpol.*($SELECTION)"
	bin=$("$REPO/hack/tools.sh" e2e)
	say "NetworkPolicy specs of Kubernetes: $focus"
	# SCTP specs need a socket type that not every kernel has; flows for SCTP have tests of their own.
	"$bin/ginkgo" -procs=3 --no-color --flake-attempts=2 --focus="$focus" --skip=SCTP "$bin/e2e.test" -- \
		--kubeconfig="$KUBECONFIG_PATH" --provider=skeleton >"$log" 2>&1 || {
		grep -E '\[FAIL|\[TIMEDOUT|Ran [0-9]+ of' "$log" | tail -n 30 >&2
		fail "NetworkPolicy specs failed; all of their output is in $log"
	}
	grep -E '^Ran [0-9]+ of' "$log" >&2
	[[ $(sed -n 's/^Ran \([0-9]*\) of.*/\1/p' "$log") -gt 0 ]] || fail 'no spec was run'
	ok "$(sed -n 's/^Ran \([0-9]*\) of.*/\1/p' "$log") NetworkPolicy specs"
}

# Control groups of whoever runs this script come and go meanwhile; ours have their own name.
export LEFTOVERS_IGNORE=${LEFTOVERS_IGNORE:-'cgroup .*/(process_api|system\.slice|user\.slice)(/|$)'}
before=$(mktemp)
"$REPO/hack/cluster.sh" down
"$REPO/hack/leftovers.sh" snapshot "$before"
finish() {
	local status=$?
	trap - EXIT
	if [[ -n ${KEEP:-} ]]; then exit "$status"; fi
	"$REPO/hack/cluster.sh" down
	if ((status == 0)); then "$REPO/hack/leftovers.sh" compare "$before" || status=1; fi
	rm -f "$before"
	((status != 0)) || ok 'nothing was left behind'
	((status != 0)) || echo "$passed passed, 0 failed"
	exit "$status"
}
trap finish EXIT
"$REPO/hack/cluster.sh" up
connectivity
installation_rules
policies_by_api
netpol
