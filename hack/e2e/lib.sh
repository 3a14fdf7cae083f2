# shellcheck shell=bash disable=SC2034
# What the files beside this one share: verdicts, pods, commands in pods. Sourced by hack/e2e.sh;
# needs hack/lib.sh
# and hack/install.sh.

AGNHOST=registry.k8s.io/e2e-test-images/agnhost:2.56
TOOLBOX=docker.io/antrea/toolbox:dev
# The host is no node, and has no route to pods: the world outside.
WORLD=$HOST_IP
passed=0
figures=()

ok() {
	passed=$((passed + 1))
	say "good: $*"
}

# A figure that is told, not judged; all of them are told again at the end.
figure() {
	note "$*"
	figures+=("$*")
}

fail() {
	kubectl get pods -A -o wide >&2 || true
	installation | jq -c '.status.conditions[]? | [.type, .status, .reason, .message]' >&2 || true
	die "$*"
}

# quietly COMMAND...: its output only if it fails.
quietly() {
	local output
	output=$("$@" 2>&1) || {
		echo "$output" >&2
		return 1
	}
}

address() { kubectl get pod "$1" -o jsonpath='{.status.podIP}'; }

# in_pod POD COMMAND...
in_pod() {
	local pod=$1
	shift
	kubectl exec "$pod" -- "$@"
}

# connects FROM ADDRESS:PORT [PROTOCOL]: agnhost's client in a pod.
connects() {
	local said
	said=$(in_pod "$1" /agnhost connect "$2" --timeout=3s --protocol="${3:-tcp}" 2>&1) && [[ -z $said ]]
}

# refused FROM ADDRESS:PORT [PROTOCOL]: the client ran and said that nobody answered. Any other failure (no such pod, an API
# server that hiccups) says nothing of a policy.
refused() {
	local said
	said=$(in_pod "$1" /agnhost connect "$2" --timeout=3s --protocol="${3:-tcp}" 2>&1) && return 1
	[[ $said =~ ^(TIMEOUT|REFUSED) ]]
}

# pod NAME NODE [FIELD: VALUE]...: from standard input its containers, as YAML.
pod() {
	local name=$1 node=$2 line
	shift 2
	{
		cat <<-END
			apiVersion: v1
			kind: Pod
			metadata:
			  name: $name
			  labels: {app: $name}
			  annotations: {${POD_ANNOTATIONS:-}}
			spec:
			  nodeName: $node
			  terminationGracePeriodSeconds: 0
		END
		for line; do echo "  $line"; done
		echo '  containers:'
		sed 's/^/  /'
	} | kubectl apply -f - >/dev/null
}

# server NAME NODE [HOSTPORT]: serves its name, and its peer's address, over HTTP on 8080 and UDP on 8081.
server() {
	pod "$1" "$2" <<-END
		- name: agnhost
		  image: $AGNHOST
		  imagePullPolicy: Never
		  command: [/agnhost, netexec, --http-port=8080, --udp-port=8081]
		  ports: [{containerPort: 8080, hostPort: ${3:-0}}]
		  readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
	END
}

# node_server NAME NODE: the same in the node's own network. A UDP server that listens on every address would
# answer from the one that is closest to the pod, which is not the one that was asked.
node_server() {
	pod "$1" "$2" 'hostNetwork: true' <<-END
		- name: agnhost
		  image: $AGNHOST
		  imagePullPolicy: Never
		  command: [/agnhost, netexec, --http-port=8090, --udp-port=8091, --udp-listen-addresses=$(node_ip "$2")]
	END
}

# toolbox NAME NODE [ANNOTATIONS]
toolbox() {
	POD_ANNOTATIONS=${3:-} pod "$1" "$2" <<-END
		- name: toolbox
		  image: $TOOLBOX
		  imagePullPolicy: Never
	END
}

# The pods that most of the suite talks between: servers one and two, toolboxes left, beside and right.
make_pods() {
	server one node1
	server two node2 18080
	node_server host1 node1
	node_server host2 node2
	toolbox left node1
	toolbox beside node1
	toolbox right node2
	kubectl wait --for=condition=Ready --timeout=90s pod/{one,two,host1,host2,left,beside,right} >/dev/null ||
		fail 'pods are not Ready'
	ok 'the kubelet probes pods on both nodes'
	ONE=$(address one) TWO=$(address two) LEFT=$(address left) BESIDE=$(address beside) RIGHT=$(address right)
	NODE1=$(node_ip node1) NODE2=$(node_ip node2)
}

# A listener in the world outside, which tells its peers' addresses: TCP 8080, UDP 8081.
world_up() {
	running world || start world "$("$REPO/hack/tools.sh" agnhost)/agnhost" netexec --http-port=18090 --udp-port=18091
	wait_for 10 curl -sf -m 2 "http://$WORLD:18090/hostname" || die 'the listener outside does not answer'
}

# udp FROM ADDRESS PORT WORD: what a UDP server of agnhost answers.
udp() { in_pod "$1" bash -c "echo $4 | nc -u -w 2 -W 1 $2 $3"; }

# The installation, changed by a merge patch of its spec.
patch_installation() {
	quietly kubectl patch antreainstallation default --type=merge -p "{\"spec\": $1}" ||
		fail "spec $1 is refused"
}

# condition TYPE: its status, reason and message on one line.
condition() {
	installation | jq -r --arg type "$1" '.status.conditions[]? | select(.type == $type) |
		"\(.status) \(.reason) \(.message)"'
}

# acknowledge: makes the disruptive change that waits for it.
acknowledge() {
	wait_for 20 condition_matches Progressing '^False AcknowledgementNeeded .*spec.rollout.acknowledge is [0-9]+' ||
		fail "a disruptive change does not wait: $(condition Progressing)"
	patch_installation "{\"rollout\": {\"acknowledge\": $(condition Progressing | sed 's/.*acknowledge is \([0-9]*\).*/\1/')}}"
}

# condition_matches TYPE REGEX
condition_matches() { [[ $(condition "$1") =~ $2 ]]; }

# settled: Available, neither Progressing nor Degraded, and this generation of the spec is in effect.
settled() {
	installation | jq -e '.metadata.generation == .status.observedGeneration and
		([.status.conditions[] | select(.status == "True").type] == ["Available"])' >/dev/null
}

pods_talk() { connects one "$TWO:8080" && connects two "$ONE:8080"; }

# pod_of NODE: the agent's pod there.
agent_of() {
	kubectl -n kube-system get pods -l component=antrea-agent --field-selector "spec.nodeName=$1" \
		-o jsonpath='{.items[0].metadata.name}'
}

# container_pids NODE ID: processes of a container, found by its control group.
container_pids() {
	find "$(cgroup_tracker)/$CGROUP/$1" -type d -name "*${2#*://}*" -exec cat {}/cgroup.procs \; 2>/dev/null
}
