# shellcheck shell=bash
# Services, which kube-proxy translates on the nodes, in each of its modes. Sourced by hack/e2e.sh; needs
# hack/node.sh.

# reaches COMMAND...: soon; kube-proxy has its own pace.
reaches() { wait_for 20 "$@"; }

services_in() {
	local mode=$1 cluster_ip port from node
	cluster_ip=$(kubectl get service two -o jsonpath='{.spec.clusterIP}')
	port=$(kubectl get service two -o jsonpath='{.spec.ports[?(@.name=="http")].nodePort}')
	udp_port=$(kubectl get service two -o jsonpath='{.spec.ports[?(@.name=="udp")].nodePort}')
	for from in one two; do
		reaches connects "$from" "$cluster_ip:80" || fail "$mode: no TCP from $from to the ClusterIP"
		reaches connects "$from" "$cluster_ip:81" udp || fail "$mode: no UDP from $from to the ClusterIP"
	done
	for node in "$NODE1" "$NODE2"; do
		reaches curl -sf -m 5 "http://$node:$port/hostname" || fail "$mode: no NodePort on $node from outside"
		[[ $(echo hostname | socat -t 2 - "UDP:$node:$udp_port") == two ]] || fail "$mode: no UDP NodePort on $node"
		for from in one two; do
			reaches connects "$from" "$node:$port" || fail "$mode: no NodePort on $node from pod $from"
		done
	done
	for node in node1 node2; do
		reaches in_node "$node" curl -sf -m 5 "http://$cluster_ip/hostname" || fail "$mode: no ClusterIP from $node"
	done
	ok "$mode: ClusterIP and NodePort from pods, nodes and outside, by TCP and UDP, and to oneself"
	reaches curl -sf -m 5 "http://$NODE2:18080/hostname" || fail "$mode: no hostPort from outside"
	reaches connects one "$NODE2:18080" || fail "$mode: no hostPort from a pod of another node"
	reaches connects two "$NODE2:18080" || fail "$mode: no hostPort from the pod itself"
	reaches in_node node2 curl -sf -m 5 "http://$NODE2:18080/hostname" || fail "$mode: no hostPort from its node"
	ok "$mode: hostPort"
}

# Restarts kube-proxy on all nodes in another mode.
proxy_mode() {
	local node
	KUBE_PROXY_MODE=$1
	for node in $(node_names); do proxy_up "$node"; done
	for node in $(node_names); do
		wait_for 30 in_node "$node" curl -sf -m 2 http://127.0.0.1:10249/healthz ||
			fail "kube-proxy of $node does not come up in $1 mode"
		[[ $(in_node "$node" curl -s -m 2 http://127.0.0.1:10249/proxyMode) == "$1" ]] ||
			fail "kube-proxy of $node is not in $1 mode"
	done
}

service_two() {
	kubectl apply -f - >/dev/null <<-END
		apiVersion: v1
		kind: Service
		metadata: {name: two}
		spec:
		  type: NodePort
		  selector: {app: two}
		  ports:
		  - {name: http, port: 80, targetPort: 8080}
		  - {name: udp, port: 81, targetPort: 8081, protocol: UDP}
	END
}

services() {
	local first=$KUBE_PROXY_MODE mode
	service_two
	if [[ $first == none ]]; then
		services_in 'Open vSwitch alone'
		return
	fi
	services_in "kube-proxy in $first mode"
	for mode in iptables nftables; do
		if [[ $mode != "$first" ]]; then
			proxy_mode "$mode"
			services_in "kube-proxy in $mode mode"
		fi
	done
	proxy_mode "$first"
}

# Kubernetes' own specs of Services, of what they are made of, and of connectivity.
SERVICE_SPECS='\[sig-network\] (Services|EndpointSlice|EndpointSliceMirroring|Networking Granular|HostPort|Proxy|Service CIDRs|ServiceCIDR)'
# Those that are left out, each with the reason that makes it impossible here.
declare -A NO_SERVICE_SPECS=(
	['Services should work after restarting kube-proxy [Disruptive]']='there is no kube-proxy'
	['Services should work after restarting apiserver [Disruptive]']='the API server is no Pod that a client could delete'
	['Services should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes']='it takes three nodes'
	['Networking Granular Checks: Services should function for pod-Service: sctp [Feature:SCTPConnectivity]']='no SCTP sockets'
	['Networking Granular Checks: Services should function for node-Service: sctp [Feature:SCTPConnectivity]']='it skips itself everywhere (kubernetes/kubernetes#96482)'
	['Networking Granular Checks: Services should function for endpoint-Service: sctp [Feature:SCTPConnectivity]']='no SCTP sockets'
	['Networking Granular Checks: Pods should function for intra-pod communication: sctp [LinuxOnly] [Feature:SCTPConnectivity]']='no SCTP sockets'
	['Networking Granular Checks: Pods should function for node-pod communication: sctp [LinuxOnly] [Feature:SCTPConnectivity]']='it skips itself everywhere (kubernetes/kubernetes#96482)'
)

service_specs() {
	local node spec
	# Here the API server is no member of the cluster; where it is, it has a way to pods.
	for node in $(node_names); do
		ip route replace "$(kubectl get node "$node" -o jsonpath='{.spec.podCIDR}')" via "$(node_ip "$node")"
	done
	for spec in "${!NO_SERVICE_SPECS[@]}"; do note "left out, for ${NO_SERVICE_SPECS[$spec]}: $spec"; done
	kubernetes_specs Services "$SERVICE_SPECS" 88 --skip="$(exactly "${!NO_SERVICE_SPECS[@]}")"
	for node in $(node_names); do
		ip route del "$(kubectl get node "$node" -o jsonpath='{.spec.podCIDR}')" via "$(node_ip "$node")"
	done
}
