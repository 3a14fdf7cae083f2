#!/bin/bash
# Draws every Grafana board from real data: a Prometheus scrapes the running local cluster for SECONDS
# (default 60), then target/dashboards/*.svg are written.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/prometheus.sh"
need_root
[[ -e $KUBECONFIG_PATH ]] || die 'no cluster: run make up'
command -v prometheus >/dev/null || die 'prometheus is missing: run hack/deps.sh'

build_monitoring_tool
new_kinds=()
finish() {
	prometheus_down
	monitoring_crds_down "${new_kinds[@]}"
}
trap finish EXIT
for kind in servicemonitors prometheusrules; do
	kubectl get crd "$kind.monitoring.coreos.com" >/dev/null 2>&1 || new_kinds+=("$kind")
done
monitoring_crds_up "${new_kinds[@]}"
wait_for 30 kubectl -n kube-system get prometheusrule antrea || die 'the operator made no PrometheusRule'
wait_for 30 kubectl -n kube-system get servicemonitor antrea-agent || die 'the operator made no ServiceMonitor'
prometheus_up
say "scraping for ${1:-60} seconds"
sleep "${1:-60}"
prometheus_targets >&2
monitoring_tool plot --prometheus "$PROMETHEUS" --interval "$SCRAPE_INTERVAL" --range "${1:-60}" --out "$REPO/target/dashboards"
