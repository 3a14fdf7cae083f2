#!/bin/bash
# Octant v0.25.1 itself, without its page, loads antrea-octant-plugin: pages and actions over its websocket against a
# real API server, a killed plugin, the end. Everything listens on loopback and ends with this script.
#   ui.sh [FOLDER]   FOLDER has the plugin (default: what `cargo build --profile ci` makes)
. "$(dirname "$0")/lib.sh"
cd "$REPO"

PLUGIN=${1:-${CARGO_TARGET_DIR:-$REPO/target}/$TARGET/ci}/antrea-octant-plugin
HOST=$REPO/ui/octant/host
# Octant's dependencies want C headers for these.
TAGS=exclude_graphdriver_devicemapper,exclude_graphdriver_btrfs,containers_image_openpgp

# go_program NAME PACKAGE FILE...: built once for these files, into the cache.
go_program() {
	local bin lock
	bin=$CACHE/octant/$(hash_files "${@:3}")
	mkdir -p "$bin"
	exec {lock}>"$bin.lock"
	flock "$lock"
	if [[ ! -x $bin/$1 ]]; then
		say "building $1 (first time only)"
		(cd "$HOST" && CGO_ENABLED=0 GOFLAGS=-buildvcs=false nice -n 10 \
			go build -trimpath -ldflags '-s -w' -tags "$TAGS" -o "$bin/$1.part" "$2" >&2 {lock}>&-)
		mv "$bin/$1.part" "$bin/$1"
	fi
	exec {lock}>&-
	echo "$bin/$1"
}

[[ -x $PLUGIN ]] || die "there is no $PLUGIN"
octant=$(go_program octant github.com/vmware-tanzu/octant/cmd/octant "$HOST"/go.{mod,sum})
host=$(go_program host . "$HOST"/{go.mod,go.sum,main.go})
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

# run NAME COMMAND...
run() {
	local name=$1
	shift
	"$@" >"$work/$name.log" 2>&1 &
	started+=($!)
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

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
cat >"$work/kubeconfig" <<EOF
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "https://127.0.0.1:$port", insecure-skip-tls-verify: true}}]
users: [{name: here, user: {token: $token}}]
contexts: [{name: here, context: {cluster: here, user: here}}]
EOF
k() { "$kubernetes/kubectl" --kubeconfig "$work/kubeconfig" "$@"; }
wait_for 60 k get --raw /readyz || die 'the API server did not start'

say 'creating what the pages show'
k apply -f crds/yaml >/dev/null
# Traceflow is not served by this version; its definition is here to see what the actions make.
k apply -f ui/octant/host/objects.yaml >/dev/null 2>&1 || true
wait_for 30 k get traceflows.crd.antrea.io || die 'the definitions were not taken up'
k apply -f ui/octant/host/objects.yaml >/dev/null
now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
for object in antreacontrollerinfo/antrea-controller antreaagentinfo/node1; do
	list=$([[ $object == *agent* ]] && echo agentConditions || echo controllerConditions)
	k patch "$object" --type json -p "[{\"op\": \"replace\", \"path\": \"/$list/0/lastHeartbeatTime\", \"value\": \"$now\"}]" >/dev/null
done

say 'Octant and the plugin'
mkdir -p "$work/home" "$work/plugins"
install -m 755 "$PLUGIN" "$work/plugins/antrea-octant-plugin"
HOME=$work/home XDG_CONFIG_HOME=$work/home "$host" "$octant" "$work/plugins" "$work/kubeconfig" "127.0.0.1:$(free_port)" "$work/octant.log"
