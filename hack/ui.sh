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
. hack/apiserver.sh
start_apiserver

say 'creating what the pages show'
# Nobody sees to Traceflows here: they show what the actions make, and that the schema takes it.
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
