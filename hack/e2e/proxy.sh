# shellcheck shell=bash
# Services that Open vSwitch serves beside a real kube-proxy, and the way there and back. Sourced by hack/e2e.sh; needs
# hack/e2e/services.sh and hack/e2e/settings.sh.

# translated NODE ADDRESS: new connections to a cluster IP that kube-proxy has translated on a node.
translated() {
	in_node "$1" iptables -w -t nat -L KUBE-SERVICES -v -x -n | awk -v to="$2" '$9 == to { sum += $1 } END { print sum + 0 }'
}

# stream_up ADDRESS: octets from left to right by a Service for 60 s.
stream_up() {
	kubectl exec right -- timeout 90 iperf3 -s -1 -p 5203 >/dev/null &
	wait_for 10 in_pod right bash -c 'ss -tln | grep -q :5203' || fail 'no iperf3 on right'
	kubectl exec left -- iperf3 -c "$1" -p 5203 -t 60 -b 2M -l 4K -J >"$STATE/stream.json" &
	STREAM=$!
}

stream_down() {
	wait "$STREAM" || fail "$1: the stream broke: $(jq -r .error "$STATE/stream.json")"
	(($(jq '.intervals[-2].sum.bytes' "$STATE/stream.json") > 0)) || fail "$1: the stream moves nothing any more"
}

# Leaves what pods send to kube-proxy too.
to_kube_proxy() {
	patch_installation '{"proxy": {"mode": "KubeProxy"}}'
	acknowledge
	wait_for 150 settled || fail "the installation does not settle with kube-proxy: $(condition Progressing)"
	patch_installation '{"rollout": null}'
}

proxy() {
	# shellcheck disable=SC2034 # for outside
	local cluster_ip stream_ip before node count antctl access=$KUBECONFIG_PATH
	if [[ $KUBE_PROXY_MODE != iptables ]]; then
		figure 'LEFT OUT: proxy, which counts in rules of kube-proxy in iptables mode (KUBE_PROXY_MODE=iptables)'
		return
	fi
	# shellcheck disable=SC2034
	antctl=$(project_binaries)/antctl
	service_two
	kubectl apply -f - >/dev/null <<-END
		apiVersion: v1
		kind: Service
		metadata: {name: right}
		spec: {selector: {app: right}, ports: [{port: 5203}]}
	END
	cluster_ip=$(kubectl get service two -o jsonpath='{.spec.clusterIP}')
	stream_ip=$(kubectl get service right -o jsonpath='{.spec.clusterIP}')
	to_kube_proxy
	reaches connects one "$cluster_ip:80" || fail 'no ClusterIP before'
	before=$(translated node1 "$cluster_ip")
	((before > 0)) || fail "kube-proxy's counters do not count"
	wait_for 15 explains 0 'kube-proxy gives it an endpoint.*kube-proxy .iptables. of node1 gives [0-9.]+:80 one of 1 endpoint' \
		default/left svc/default/two ||
		fail "explain does not see how a Service is reached: $(outside explain default/left svc/default/two 2>&1)"

	# The first example of the document.
	quietly kubectl patch antreainstallation default --type=merge \
		-p "$(awk '/^```yaml/ { on = ++blocks == 1; next } /^```/ { on = 0 } on' "$REPO/docs/proxy.md")" || fail 'the example is refused'
	wait_for 20 condition_matches Progressing '^True' || fail 'the mode replaces no agent'
	wait_for 150 settled || fail "the installation does not settle with proxy.mode Services: $(condition Progressing) $(condition Degraded)"
	before=$(translated node1 "$cluster_ip")
	for count in 1 2 3 4 5 6 7 8 9 10; do
		connects one "$cluster_ip:80" || fail "connection $count to the ClusterIP: none"
	done
	(($(translated node1 "$cluster_ip") == before)) || fail 'kube-proxy translates what a pod sends to a ClusterIP'
	in_node node1 curl -sf -m 5 "http://$cluster_ip/hostname" >/dev/null || fail 'no ClusterIP from node1'
	((before < $(translated node1 "$cluster_ip"))) || fail "kube-proxy's counters do not count what node1 sends"
	ok 'Open vSwitch gives what pods send to a ClusterIP its endpoint, kube-proxy what nodes send'
	services_in 'Services in Open vSwitch'
	in_pod left getent hosts two.default.svc.cluster.local >/dev/null || fail 'no name is found'
	ok 'names are found by the Service of the cluster DNS'

	before=$(translated node1 "$cluster_ip")
	stream_up "$stream_ip"
	for node in node1 node2; do
		count=$(agent_container "$node" restartCount)
		kill_agent "$node"
		wait_for 30 restarted "$node" "$count" || fail "the agent of $node does not come back"
	done
	for count in 1 2 3; do connects one "$cluster_ip:80" || fail 'no new connection after a restart'; done
	(($(translated node1 "$cluster_ip") == before)) || fail 'kube-proxy translates after a restart'
	stream_down 'agents killed'
	ok 'a connection to a Service survives both agents'

	to_kube_proxy
	before=$(translated node1 "$cluster_ip")
	reaches connects one "$cluster_ip:80" || fail 'no ClusterIP after the way back'
	((before < $(translated node1 "$cluster_ip"))) || fail 'kube-proxy does not serve pods again'
	services_in "kube-proxy in $KUBE_PROXY_MODE mode again"
	kubectl delete service right >/dev/null
	patch_installation '{"proxy": null}'
	wait_for 20 condition_matches Progressing '^True' || fail 'the default of the mode replaces no agent'
	wait_for 150 settled || fail "the installation does not settle with the default: $(condition Progressing)"
}
