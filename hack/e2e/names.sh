# shellcheck shell=bash
# Domain names in egress rules, with the cluster's CoreDNS: a name of which the addresses change while it is asked for.
# Sourced by hack/e2e.sh.

NAMED=named.default.svc.cluster.local:8080

# named_is ADDRESS: what DNS tells of the name, within the time that CoreDNS keeps it (5 s).
named_is() {
	kubectl apply -f - >/dev/null <<-END
		apiVersion: discovery.k8s.io/v1
		kind: EndpointSlice
		metadata: {name: named, labels: {kubernetes.io/service-name: named}}
		addressType: IPv4
		endpoints: [{addresses: [$1], conditions: {ready: true}}]
		ports: [{name: http, port: 8080}]
	END
}

# gets FROM ADDRESS:PORT: the name of who answers. silence: nobody does, and the address was known: any other failure says
# nothing of a policy.
gets() { in_pod "$1" curl -sSf -m 3 "http://$2/hostname"; }
named_answers() { [[ $(gets left "$NAMED" 2>/dev/null) == "$1" ]]; }
silence() {
	local status=0
	gets "$1" "$2" >/dev/null 2>&1 || status=$?
	((status == 28))
}

names() {
	local three since said='' lost=0 tries=0
	server three node1
	kubectl wait --for=condition=Ready --timeout=60s pod/three >/dev/null || fail 'a Pod is not Ready'
	three=$(address three)
	kubectl apply -f - >/dev/null <<-END
		apiVersion: v1
		kind: Service
		metadata: {name: named}
		spec: {clusterIP: None, ports: [{name: http, port: 8080}]}
	END
	named_is "$TWO"
	wait_for 20 named_answers two || fail 'the name leads nowhere'
	kubectl apply -f - >/dev/null <<-END
		apiVersion: crd.antrea.io/v1beta1
		kind: ClusterNetworkPolicy
		metadata: {name: names}
		spec:
		  priority: 5
		  appliedTo: [{podSelector: {matchLabels: {app: left}}}]
		  egress:
		  - name: dns
		    action: Allow
		    to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
		    ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
		  - {name: named, action: Allow, to: [{fqdn: "Named.*.svc.cluster.local"}], ports: [{protocol: TCP, port: 8080}]}
		  - {name: others, action: Drop}
	END
	wait_for 20 silence left "$three:8080" || fail 'what has no name is reached'
	named_answers two || fail 'the first connection to a name is refused'
	quietly gets left "$TWO:8080" || fail 'an address that DNS has told is refused'
	silence left "$ONE:8080" || fail 'what has no name is reached'
	quietly gets beside "$ONE:8080" || fail 'the rule holds for others'
	named_is "$three"
	since=$SECONDS
	while [[ $said != three ]]; do
		tries=$((tries + 1))
		said=$(gets left "$NAMED" 2>/dev/null) || lost=$((lost + 1))
		((SECONDS - since < 30)) || fail 'the name still leads to where it did'
	done
	((lost == 0)) || fail "$lost of $tries connections to a name were refused while its address changed"
	wait_for 20 silence left "$TWO:8080" || fail 'the address that the name had is still reached'
	ok 'a name in a rule is what DNS says of it, before the first connection and after its address has changed'
	kubectl delete acnp/names service/named pod/three --wait=false >/dev/null
	wait_for 10 gets left "$ONE:8080" || fail 'no connection afterwards'
}
