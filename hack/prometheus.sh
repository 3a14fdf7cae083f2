# shellcheck shell=bash disable=SC2034
# A Prometheus beside the local cluster, which scrapes by the ServiceMonitors that the operator made there, as
# Prometheus's operator would have it do. Sourced; needs hack/lib.sh.

PROMETHEUS=http://127.0.0.1:19090
PROMETHEUS_DIR=$STATE/prometheus
SCRAPE_INTERVAL=3
# Enough for the rate interval, which is four scrapes, to be full.
SCRAPE_WARMUP=$((SCRAPE_INTERVAL * 6))

build_monitoring_tool() { cargo build -q "${CI_BUILD[@]}" -p antrea-monitoring --manifest-path "$REPO/Cargo.toml"; }

monitoring_tool() { "$REPO/target/$TARGET/ci/antrea-monitoring" "$@"; }

# The definitions of Prometheus's operator, from its Go module.
monitoring_crds() {
	local kind folder
	folder=$("$REPO/hack/tools.sh" monitoring-crds)
	for kind in "$@"; do echo "$folder/monitoring.coreos.com_$kind.yaml"; done
}

monitoring_crds_up() {
	local file
	for file in $(monitoring_crds "$@"); do kubectl apply --server-side -f "$file" >/dev/null; done
}

monitoring_crds_down() {
	local kind
	for kind in "$@"; do
		kubectl delete crd "$kind.monitoring.coreos.com" --ignore-not-found >/dev/null
	done
}

# A ServiceAccount that may read metrics and nothing else; its token.
prometheus_account() {
	kubectl apply -f - >/dev/null <<-'END'
		apiVersion: v1
		kind: Namespace
		metadata: {name: monitoring}
		---
		apiVersion: v1
		kind: ServiceAccount
		metadata: {name: prometheus, namespace: monitoring}
		---
		apiVersion: rbac.authorization.k8s.io/v1
		kind: ClusterRole
		metadata: {name: prometheus}
		rules:
		- {nonResourceURLs: [/metrics], verbs: [get]}
		---
		apiVersion: rbac.authorization.k8s.io/v1
		kind: ClusterRoleBinding
		metadata: {name: prometheus}
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: prometheus}
		subjects: [{kind: ServiceAccount, name: prometheus, namespace: monitoring}]
	END
	kubectl -n monitoring create token prometheus --duration=2h >"$PROMETHEUS_DIR/token"
}

# Every key of a ConfigMap that a ServiceMonitor names, as a file.
prometheus_config_maps() {
	local namespace name key
	mkdir -p "$PROMETHEUS_DIR/config-maps"
	jq -r '.items[] | .metadata.namespace as $namespace | .spec.endpoints[].tlsConfig.ca.configMap | select(.) |
		[$namespace, .name, .key] | @tsv' "$PROMETHEUS_DIR/service-monitors.json" |
		while IFS=$'\t' read -r namespace name key; do
			kubectl -n "$namespace" get configmap "$name" -o json </dev/null | jq -e -r --arg key "$key" '.data[$key]' \
				>"$PROMETHEUS_DIR/config-maps/${namespace}_${name}_$key"
		done
}

prometheus_up() {
	mkdir -p "$PROMETHEUS_DIR"
	prometheus_account
	kubectl get servicemonitors -A -o json >"$PROMETHEUS_DIR/service-monitors.json"
	kubectl get prometheusrules -A -o json | jq '{groups: [.items[].spec.groups[]]}' >"$PROMETHEUS_DIR/rules.json"
	kubectl get services,endpointslices,pods -A -o json >"$PROMETHEUS_DIR/cluster.json"
	prometheus_config_maps
	monitoring_tool config --service-monitors "$PROMETHEUS_DIR/service-monitors.json" \
		--cluster "$PROMETHEUS_DIR/cluster.json" --token "$PROMETHEUS_DIR/token" --rules "$PROMETHEUS_DIR/rules.json" \
		--config-maps "$PROMETHEUS_DIR/config-maps" --interval "$SCRAPE_INTERVAL" >"$PROMETHEUS_DIR/prometheus.json"
	promtool check config "$PROMETHEUS_DIR/prometheus.json" >&2
	start prometheus prometheus --config.file="$PROMETHEUS_DIR/prometheus.json" --log.level=warn \
		--storage.tsdb.path="$PROMETHEUS_DIR/data" --web.listen-address="${PROMETHEUS#http://}"
	wait_for 20 curl -sf "$PROMETHEUS/-/ready" || must_run prometheus
}

prometheus_down() {
	stop prometheus
	cgroup_remove "$CGROUP/prometheus"
	kubectl delete clusterrole,clusterrolebinding prometheus --ignore-not-found >/dev/null
	kubectl delete namespace monitoring --ignore-not-found >/dev/null
}

# Targets by health: "up JOB INSTANCE" and why not.
prometheus_targets() {
	curl -sf "$PROMETHEUS/api/v1/targets?state=active" |
		jq -r '.data.activeTargets[] | "\(.health) \(.labels.job) \(.labels.instance) \(.lastError)"' | sort
}

# prometheus_sees JOB NUMBER: whether as many targets of the job are up, and none is not.
prometheus_sees() {
	local targets
	targets=$(prometheus_targets) || return 1
	[[ $(grep -c "^up $1 " <<<"$targets") == "$2" && $(grep -c " $1 " <<<"$targets") == "$2" ]]
}
