# shellcheck shell=bash
# A real API server with etcd, on loopback, for tests of user interfaces. Source it after lib.sh; all ends with the script
# that sources it. Sets `work` (a folder that ends too), `kubernetes`, `port`, `token`, and the function k, which is kubectl.

kubernetes=$(hack/tools.sh kubernetes)
work=$(mktemp -d)
started=()
finish() {
	local status=$? pid
	trap - EXIT
	for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
	if ((status)); then tail -n 40 "$work"/*.log >&2; fi
	rm -rf "$work"
	exit "$status"
}
trap finish EXIT

# run NAME COMMAND...: in the background, until the script ends.
run() {
	local name=$1
	shift
	"$@" >"$work/$name.log" 2>&1 &
	started+=($!)
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

k() { "$kubernetes/kubectl" --kubeconfig "$work/kubeconfig" "$@"; }

# start_apiserver: with the definitions of this project's custom resources.
start_apiserver() {
	local etcd peer
	say 'starting an API server'
	etcd=$(free_port) peer=$(free_port) port=$(free_port) token=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
	run etcd "$kubernetes/etcd" --data-dir "$work/etcd" --listen-client-urls "http://127.0.0.1:$etcd" \
		--advertise-client-urls "http://127.0.0.1:$etcd" --listen-peer-urls "http://127.0.0.1:$peer" \
		--initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer" --unsafe-no-fsync
	openssl genrsa -out "$work/sa.key" 2048 2>/dev/null
	echo "$token,admin,admin,system:masters" >"$work/tokens"
	run apiserver "$kubernetes/kube-apiserver" --etcd-servers "http://127.0.0.1:$etcd" --bind-address 127.0.0.1 \
		--advertise-address 127.0.0.1 --secure-port "$port" --cert-dir "$work/certs" --token-auth-file "$work/tokens" \
		--authorization-mode RBAC --service-account-issuer https://kubernetes.default.svc \
		--service-account-key-file "$work/sa.key" --service-account-signing-key-file "$work/sa.key" \
		--service-cluster-ip-range 10.96.0.0/16 --disable-admission-plugins ServiceAccount
	cat >"$work/kubeconfig" <<-EOF
		apiVersion: v1
		kind: Config
		current-context: here
		clusters: [{name: here, cluster: {server: "https://127.0.0.1:$port", insecure-skip-tls-verify: true}}]
		users: [{name: here, user: {token: $token}}]
		contexts: [{name: here, context: {cluster: here, user: here}}]
	EOF
	wait_for 60 k get --raw /readyz || die 'the API server did not start'
	k apply -f crds/yaml >/dev/null
	wait_for 30 k get antreaagentinfos,antreacontrollerinfos,antreainstallations || die 'the definitions were not taken up'
}
