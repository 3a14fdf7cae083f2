# shellcheck shell=bash
# Fields of the AntreaInstallation that change what agents and controller do, from the object to the node; antctl in their
# containers; what the controller says of itself. Sourced by hack/e2e.sh.

controller_pod() {
	kubectl -n kube-system get pods -l component=antrea-controller -o jsonpath='{.items[0].metadata.name}'
}

# antctl_in POD CONTAINER ARGUMENT...
antctl_in() {
	local pod=$1 container=$2
	shift 2
	kubectl -n kube-system exec "$pod" -c "$container" -- antctl "$@"
}

in_agent() { antctl_in "$(agent_of node1)" antrea-agent "$@"; }
in_controller() { antctl_in "$(controller_pod)" antrea-controller "$@"; }

# shows REGEX COMMAND...: the command succeeds and prints this.
shows() {
	local wanted=$1 said
	shift
	said=$("$@") || fail "$* failed"
	[[ $said =~ $wanted ]] || fail "$* does not show $wanted: $said"
}

antctl() {
	kubectl apply -f - >/dev/null <<-END
		apiVersion: networking.k8s.io/v1
		kind: NetworkPolicy
		metadata: {name: shown}
		spec:
		  podSelector: {matchLabels: {app: one}}
		  ingress: [{}]
	END
	shows 'agentVersion' in_agent version -o json
	shows 'controllerVersion' in_controller version -o json
	shows "node1 .*Healthy" in_agent get agentinfo
	shows "$ONE" in_agent get podinterface one -n default
	wait_for 10 in_agent get networkpolicy shown -n default >/dev/null || fail 'the agent does not show the policy of its node'
	shows 'default/one' in_agent get appliedtogroup
	shows 'AntreaPolicy' in_agent get featuregates
	shows 'Classifier' in_agent get ovsflows --table-names-only
	shows "table=SpoofGuard, n_packets=[0-9]+, .*$ONE" in_agent get ovsflows -p one -n default
	shows 'Datapath actions: ' in_agent trace-packet -S default/one -D 192.0.2.1 -f tcp,tcp_dst=80
	shows 'Healthy' in_controller get controllerinfo
	shows 'default/shown' in_controller get networkpolicy shown -n default
	shows 'AntreaPolicy' in_controller get featuregates
	kubectl delete networkpolicy shown >/dev/null
	ok 'antctl in the containers of agent and controller shows what they have'
}

# outside ARGUMENT...: antctl on this machine, which is no node, as whoever $access is the kubeconfig of.
outside() { "$antctl" --kubeconfig "$access" "$@"; }

# has_no_secret ARCHIVE: no private key and no token is in any of its files.
has_no_secret() { ! tar -xzOf "$1" | grep -aqE 'PRIVATE KEY-----|eyJ[A-Za-z0-9_-]+[.]eyJ'; }

# explains CODE REGEX ARGUMENT...: antctl explain ends with this exit code and says this.
explains() {
	local code=$1 wanted=$2 said status=0
	shift 2
	said=$(outside explain "$@" 2>&1) || status=$?
	[[ $status == "$code" && $said =~ $wanted ]] || {
		note "explain $* ends with $status: $said"
		return 1
	}
}

# What is so, what a policy denies, and what is broken; with the two nodes' own policies, groups and bridges.
explanations() {
	local began
	explains 0 'through the tunnel to node2.*the bridge of node2 gives it to default/two' default/left default/two ||
		fail 'explain does not see how a pod of the other node is reached'
	explains 0 'node1 has the routes that it needs: to node2.*node2 has the routes that it needs: to default/two' default/left default/two ||
		fail "explain does not see the routes of both nodes: $(outside explain default/left default/two 2>&1)"
	explains 0 'packet sent +it came to default/two on node2' default/left default/two --send ||
		fail 'explain does not send a packet'
	explains 0 'the bridge of node1 gives it to default/one' default/left default/one --port 8080 ||
		fail 'explain does not see how a pod of the same node is reached'
	explains 0 "in the Node's network: no policy selects it" default/left default/host2 --port 8090 ||
		fail 'explain does not know a pod in the network of its node'
	explains 0 'from there on routes' default/left "$WORLD" --port 18090 || fail 'explain does not see the way out of the cluster'
	kubectl apply -f - >/dev/null <<-END
		apiVersion: networking.k8s.io/v1
		kind: NetworkPolicy
		metadata: {name: shut}
		spec:
		  podSelector: {matchLabels: {app: two}}
		  ingress: [{from: [{podSelector: {matchLabels: {app: one}}}], ports: [{port: 8080}]}]
	END
	wait_for 15 explains 1 'NetworkPolicy default/shut isolates default/two.*the bridge of node2 drops it in table IngressDefaultRule' \
		default/left default/two || fail "explain does not name the policy that denies: $(outside explain default/left default/two 2>&1)"
	explains 0 'NetworkPolicy default/shut, ingress rule 0, allows it' default/one default/two ||
		fail 'explain does not name the rule that allows'
	explains 1 'ingress rule 0, is about default/one, but only TCP 8080' default/one default/two --port 9 ||
		fail 'explain does not name the port that is allowed'
	kubectl delete networkpolicy shut >/dev/null
	kubectl expose pod two --name=explained --port=80 --target-port=8080 >/dev/null
	wait_for 15 explains 0 'the bridge of node1 gives what is for [0-9.]+ an endpoint itself' \
		default/left svc/default/explained ||
		fail "explain does not see how a Service is reached: $(outside explain default/left svc/default/explained 2>&1)"
	kubectl create service clusterip nobody --tcp=80 >/dev/null
	explains 2 'Service default/nobody has no endpoint: its selector takes no Pod' default/left default/nobody ||
		fail 'explain does not miss the endpoints of a Service'
	kubectl delete service explained nobody >/dev/null
	explains 2 'there is no Pod default/none' default/none default/two || fail 'explain does not tell wrong arguments by their exit code'
	began=$(date +%s%N)
	explains 0 allowed default/left default/two || fail 'explain still sees what is gone'
	figure "antctl explain between two nodes: $((($(date +%s%N) - began) / 1000000)) ms"
	ok 'antctl explain says what is allowed, what a policy denies, and what is broken'
}

# The administrator has a client certificate; the viewer has a token, which no agent gets to see.
antctl_outside() {
	local antctl access=$KUBECONFIG_PATH folder name
	antctl=$(project_binaries)/antctl
	folder=$(mktemp -d)
	kubectl create serviceaccount viewer >/dev/null
	kubectl create clusterrolebinding viewer --clusterrole=antctl --serviceaccount=default:viewer >/dev/null
	kubectl create rolebinding -n kube-system viewer --role=antctl --serviceaccount=default:viewer >/dev/null
	kubectl config view --raw -o json |
		jq --arg token "$(kubectl create token viewer)" '.users[].user = {token: $token}' >"$folder/viewer"
	for access in "$KUBECONFIG_PATH" "$folder/viewer"; do
		shows "$ONE" outside get podinterface one -n default --node node1
		shows 'Classifier' outside get ovsflows --table-names-only --node node2
		shows 'node1 [0-9]+.*node2 [0-9]+' outside log-level --node node1,node2
		explains 0 allowed default/one default/two || fail 'antctl explain does not find that pods reach each other'
	done
	access=$KUBECONFIG_PATH
	shows '' outside log-level 4 --node node1
	shows 'node1 +4.*node2 +0' outside log-level --node node1,node2
	shows '' outside log-level 0 --node node1
	ok 'antctl asks the agents of both nodes from elsewhere, with a certificate and with a token'
	access=$KUBECONFIG_PATH
	explanations
	shows 'Kubernetes version +ok' outside check cluster
	shows "$folder" outside supportbundle -d "$folder/bundles" 2>/dev/null
	for name in agent_node1 agent_node2 controller; do
		has_no_secret "$folder/bundles/$name.tar.gz" || fail "there is a secret in the support bundle $name"
		[[ $(tar -tzf "$folder/bundles/$name.tar.gz") == *networkpolicies* ]] || fail "the support bundle $name has no policies"
	done
	[[ $(tar -xzOf "$folder/bundles/agent_node1.tar.gz" ovsdb flows) == *"$ONE"* ]] || fail 'Pod one is not in the support bundle of node1'
	kubectl get --raw /apis/system.antrea.io/v1beta1/controllerinfos/antrea-controller | jq -e .connectedAgentNum >/dev/null ||
		fail 'the controller does not show its state as controllerinfos'
	figure "support bundle of a node: $(stat -c %s "$folder/bundles/agent_node1.tar.gz") octets"
	kubectl delete clusterrolebinding viewer >/dev/null
	kubectl delete rolebinding -n kube-system viewer >/dev/null
	kubectl delete serviceaccount viewer >/dev/null
	rm -r "$folder"
	ok 'a support bundle of two nodes is whole and has no token or key'
}

# antctl says a level as klog does: 0 is Info, 4 is Debug.
levels_are() { [[ $(in_agent log-level) == "$1" && $(in_controller log-level) == "$1" ]]; }

log_level() {
	local before
	before=$(footing)
	levels_are 0 || fail "agent and controller do not log at Info: $(in_agent log-level), $(in_controller log-level)"
	patch_installation '{"logLevel": "Debug"}'
	# A ConfigMap comes to the node within a minute, and is looked at every 10 s.
	wait_for 90 levels_are 4 || fail "logLevel is not followed: $(in_agent log-level), $(in_controller log-level)"
	patch_installation '{"logLevel": null}'
	wait_for 90 levels_are 0 || fail "logLevel is not taken back: $(in_agent log-level), $(in_controller log-level)"
	[[ $(footing) == "$before" ]] || fail "a log level replaced something: $(footing)"
	ok 'logLevel is followed by agent and controller that run'
}

# A server that takes HTTP/2 streams, answers nothing, and writes down which services send spans to it.
COLLECTOR='
import socket, threading
def serve(connection):
    seen = b""
    connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    while data := connection.recv(65536):
        seen = (seen + data)[-262144:]
        for service in (b"antrea-agent", b"antrea-controller"):
            if service in seen:
                open("/tmp/spans-of-" + service.decode(), "w")
server = socket.create_server(("", 4317))
while True:
    threading.Thread(target=serve, args=[server.accept()[0]], daemon=True).start()
'

spans_came() { in_pod right test -e /tmp/spans-of-antrea-agent -a -e /tmp/spans-of-antrea-controller; }

# Agents are replaced twice: they read this at their start.
spans_arrive() {
	kubectl exec right -- python3 -c "$COLLECTOR" &
	local collector=$!
	patch_installation "{\"tracing\": {\"otlpEndpoint\": \"http://$RIGHT:4317\"}}"
	wait_for 10 condition_matches Progressing '^True' || fail 'tracing replaces no agent'
	wait_for 150 settled || fail "the installation does not settle with tracing: $(condition Progressing)"
	# A new pod is traced by the agent, a new policy by the controller.
	server traced node1
	kubectl apply -f - >/dev/null <<-END
		apiVersion: networking.k8s.io/v1
		kind: NetworkPolicy
		metadata: {name: traced}
		spec: {podSelector: {matchLabels: {app: traced}}, ingress: [{}]}
	END
	wait_for 30 spans_came || fail "spans are missing; there are $(in_pod right sh -c 'ls /tmp')"
	kubectl delete networkpolicy/traced pod/traced --wait=false >/dev/null
	patch_installation '{"tracing": null}'
	wait_for 150 settled || fail "the installation does not settle without tracing: $(condition Progressing)"
	kill "$collector" 2>/dev/null || true
	quietly in_pod right pkill -f create_server || true
	ok 'spec.tracing: agents and controller send their spans there'
}

# controller_condition: status and reason of ControllerHealthy.
controller_condition() {
	kubectl get antreacontrollerinfo antrea-controller -o json |
		jq -r '.controllerConditions[] | select(.type == "ControllerHealthy") | "\(.status) \(.reason // "")"'
}

controller_condition_is() { [[ $(controller_condition) == "$1" ]]; }

controller_counts() {
	kubectl get antreacontrollerinfo antrea-controller -o json | jq -c '[.networkPolicyControllerInfo.networkPolicyNum, .connectedAgentNum]'
}

controller_counts_are() { [[ $(controller_counts) == "$1" ]]; }

# The controller may not read Pods any more and starts anew: it says so, and what agents have stays.
controller_status() {
	wait_for 30 controller_condition_is 'True ' || fail "ControllerHealthy is $(controller_condition)"
	wait_for 30 controller_counts_are '[0,2]' || fail "policies and agents are $(controller_counts), not [0,2]"
	patch_installation '{"managementState": "Paused"}'
	kubectl patch clusterrole antrea-controller --type=json \
		-p '[{"op": "replace", "path": "/rules/0/resources", "value": ["nodes", "namespaces"]}]' >/dev/null
	kubectl -n kube-system delete pod "$(controller_pod)" --grace-period=1 >/dev/null
	wait_for 60 controller_condition_is 'False PodWatch' || fail "no word of Pods that cannot be read: $(controller_condition)"
	pods_talk || fail 'pods do not talk while the controller reads no Pods'
	patch_installation '{"managementState": "Managed"}'
	wait_for 60 controller_condition_is 'True ' || fail "ControllerHealthy does not turn back: $(controller_condition)"
	wait_for 60 settled || fail "the installation does not settle: $(condition Degraded)"
	ok 'AntreaControllerInfo says that Pods cannot be read, and takes it back'
}

# gates_by CURL-ARGUMENT...: what the controller answers behind its Service's name, whose certificate ConfigMap antrea-ca verifies.
gates_by() {
	in_pod left curl -sSf -m 5 --cacert /tmp/antrea-ca --resolve "antrea.kube-system.svc:443:$service" "$@" \
		https://antrea.kube-system.svc/featuregates
}

agents_show() {
	kubectl get antreaagentinfos -o json | jq -e '
		(.items | length) == 2 and all(.items[]; (.version | length > 0) and (.podRef.name | length > 0) and (.nodeRef.name | length > 0) and
		(.nodeSubnets | length > 0) and (.ovsInfo.version | length > 0) and .localPodNum > 0 and
		any(.agentConditions[]; .type == "AgentHealthy" and .status == "True" and .lastHeartbeatTime != null))' >/dev/null
}

# What antrea-ui reads of a cluster, with a ServiceAccount's rights: the Info objects, feature gates, the ConfigMaps, traces with its
# label. (The flows that it can show come from a Flow Aggregator, which this version does not have.)
antrea_ui() {
	local service token said
	kubectl get antreacontrollerinfo antrea-controller -o json | jq -e '
		(.version | length > 0) and (.podRef.name | length > 0) and (.nodeRef.name | length > 0) and .connectedAgentNum == 2 and
		any(.controllerConditions[]; .type == "ControllerHealthy" and .status == "True" and .lastHeartbeatTime != null)' >/dev/null ||
		fail 'AntreaControllerInfo has not what antrea-ui shows'
	# Each is written anew every minute.
	wait_for 75 agents_show ||
		fail 'AntreaAgentInfos have not what antrea-ui shows'
	kubectl -n kube-system get configmap antrea-config -o json | jq -e '.data["antrea-agent.conf"] and .data["antrea-controller.conf"]' >/dev/null ||
		fail 'ConfigMap antrea-config has not the files that antrea-ui reads'
	service=$(kubectl -n kube-system get service antrea -o jsonpath='{.spec.clusterIP}')
	kubectl -n kube-system get configmap antrea-ca -o jsonpath='{.data.ca\.crt}' | kubectl exec -i left -- sh -c 'cat >/tmp/antrea-ca'
	! quietly gates_by || fail 'feature gates are told to anybody'
	kubectl create serviceaccount reader >/dev/null
	kubectl create clusterrolebinding reader --clusterrole=antctl --serviceaccount=default:reader >/dev/null
	token=$(kubectl create token reader)
	said=$(gates_by -H "Authorization: Bearer $token") || fail 'the controller does not tell its feature gates behind its Service'
	jq -e 'any(.[]; .component == "controller" and .name == "AntreaPolicy" and .status == "Enabled" and (.version | length > 0))' <<<"$said" >/dev/null ||
		fail "feature gates are not in the form that antrea-ui reads: $said"
	kubectl apply -f - >/dev/null <<-END
		apiVersion: crd.antrea.io/v1beta1
		kind: Traceflow
		metadata: {name: from-ui, labels: {ui.antrea.io: ""}}
		spec:
		  source: {namespace: default, pod: left}
		  destination: {namespace: default, pod: two}
		  packet: {ipHeader: {protocol: 6}, transportHeader: {tcp: {dstPort: 8080, flags: 2}}}
	END
	wait_for 15 trace_is from-ui Succeeded || fail 'a Traceflow as antrea-ui makes it does not succeed'
	kubectl get traceflow from-ui -o json | jq -e 'any(.status.results[].observations[]; .action == "Delivered")' >/dev/null ||
		fail 'a Traceflow as antrea-ui makes it does not tell where its packet ended'
	kubectl delete traceflow from-ui >/dev/null
	kubectl delete clusterrolebinding reader >/dev/null
	kubectl delete serviceaccount reader >/dev/null
	ok 'the cluster has what antrea-ui reads'
}

trace_is() { [[ $(kubectl get traceflow "$1" -o jsonpath='{.status.phase}') == "$2" ]]; }

plugin() { kubectl -n kube-public get configmap headlamp-plugin-antrea -o json 2>/dev/null; }
plugin_is_published() { [[ $(plugin | jq -j '.data["main.js"] // ""' | sha256sum) == $(sha256sum <"$REPO/config/ui/headlamp/main.js") ]]; }
no_plugin() { ! plugin >/dev/null; }

# Headlamp's plugin as a ConfigMap, and the image by which an init container brings it and Octant's.
user_interfaces() {
	local before name archive id
	before=$(footing)
	patch_installation '{"ui": {"headlamp": {"namespace": "kube-public"}}}'
	wait_for 30 plugin_is_published || fail "spec.ui publishes no plugin: $(condition Degraded)"
	kubectl get antreainstallation default -o jsonpath='{.status.computed.images.ui.repository}' | grep -q 'antrea/antrea-ui$' ||
		fail 'status.computed does not name the image with the plugins'
	kubectl -n kube-public delete configmap headlamp-plugin-antrea >/dev/null
	wait_for 30 plugin_is_published || fail 'a plugin that was deleted is not put back'
	read -r name archive id < <("$REPO/hack/images.sh" ui)
	load_image node1 "$name" "$archive" "$id"
	kubectl apply -f - >/dev/null <<-END
		apiVersion: v1
		kind: Pod
		metadata: {name: plugins}
		spec:
		  nodeName: node1
		  restartPolicy: Never
		  volumes: [{name: plugins, emptyDir: {}}]
		  initContainers:
		  - {name: copy, image: "$name", imagePullPolicy: Never, volumeMounts: [{name: plugins, mountPath: /target}]}
		  - {name: octant, image: "$name", imagePullPolicy: Never, args: [/octant/., /target], volumeMounts: [{name: plugins, mountPath: /target}]}
		  containers:
		  - name: shown
		    image: "$name"
		    imagePullPolicy: Never
		    command: [sha256sum, /target/antrea/main.js, /target/antrea/package.json, /target/antrea-octant-plugin]
		    volumeMounts: [{name: plugins, mountPath: /target}]
	END
	wait_for 60 pod_is plugins Succeeded || fail "the image with the plugins does not copy them: $(kubectl get pod plugins -o jsonpath='{.status}')"
	shows "$(sha256sum <"$REPO/config/ui/headlamp/main.js" | cut -d ' ' -f 1)" kubectl logs plugins
	kubectl delete pod plugins --wait=false >/dev/null
	patch_installation '{"ui": null}'
	wait_for 30 no_plugin || fail 'a plugin that is not wanted any more stays'
	[[ $(footing) == "$before" ]] || fail "spec.ui replaced something: $(footing)"
	ok 'spec.ui publishes the plugins, as a ConfigMap and in an image for init containers'
}

pod_is() { [[ $(kubectl get pod "$1" -o jsonpath='{.status.phase}') == "$2" ]]; }

settings() {
	antctl
	antctl_outside
	log_level
	user_interfaces
	antrea_ui
	controller_status
	no_encapsulation
	spans_arrive
}
