# shellcheck shell=bash
# Boards, ServiceMonitors and alerts: made when the cluster knows their kinds, as told, and good for a real
# Prometheus, which finds data for everything that they ask. Sourced by hack/e2e.sh.
. "$REPO/hack/prometheus.sh"

BOARDS=7

board_count() { kubectl get configmaps -n "${1:-kube-system}" -l grafana_dashboard=1 --no-headers 2>/dev/null | wc -l; }

boards_are() { [[ $(board_count "${2:-}") == "$1" ]]; }

# there_are NUMBER RESOURCE: in all namespaces.
there_are() { [[ $(kubectl get "$2" -A --no-headers 2>/dev/null | wc -l) == "$1" ]]; }

degraded() { installation | jq -r '.status.conditions[] | select(.type == "Degraded") | "\(.status) \(.message)"'; }

# degraded_is PATTERN
# shellcheck disable=SC2053
degraded_is() { [[ $(degraded) == $1 ]]; }

patch_monitoring() {
	kubectl patch antreainstallation default --type=merge -p "{\"spec\": {\"monitoring\": $1}}" >/dev/null
}

# What the operator's process has lived through: it must not have been started anew.
operator_life() {
	kubectl -n antrea-operator get pods -l component=antrea-operator -o json |
		jq -r '.items[] | "\(.metadata.uid) \(.status.containerStatuses[0].restartCount)"'
}

kinds_appear_later() {
	local life begin
	boards_are "$BOARDS" || fail "there are $(board_count) boards, not $BOARDS"
	monitoring_crds_down servicemonitors prometheusrules
	life=$(operator_life)
	kubectl -n kube-system get service antrea-agent-metrics >/dev/null 2>&1 && fail 'a Service for nobody'
	begin=$(date +%s%3N)
	monitoring_crds_up servicemonitors prometheusrules
	wait_for 30 there_are 3 servicemonitors || fail "ServiceMonitors: $(kubectl get servicemonitors -A 2>&1)"
	wait_for 30 there_are 1 prometheusrules || fail 'there is no PrometheusRule'
	figure "ServiceMonitors and PrometheusRule $(($(date +%s%3N) - begin)) ms after their definitions"
	[[ $(operator_life) == "$life" ]] || fail 'the operator was restarted'
	degraded_is 'False *' || fail "Degraded: $(degraded)"
	ok 'ServiceMonitors and PrometheusRule are made when their kinds appear, without a restart'
	kubectl delete crd prometheusrules.monitoring.coreos.com >/dev/null
	sleep 3
	degraded_is 'False *' || fail "Degraded without PrometheusRules: $(degraded)"
	monitoring_crds_up prometheusrules
	wait_for 30 there_are 1 prometheusrules || fail 'the PrometheusRule did not come again'
	ok 'a kind that goes and comes again does no harm'
}

# Strictly: a real API server drops what a definition does not know, in silence, unless it is asked not to.
objects_fit_their_definitions() {
	kubectl -n antrea-operator exec deploy/antrea-operator -- antrea-operator print-manifests --monitoring-api |
		awk -v RS='---\n' '/\nkind: (ServiceMonitor|PrometheusRule)\n/ { printf "---\n%s", $0 }' >"$STATE/monitoring.yaml"
	[[ $(grep -c '^kind: ' "$STATE/monitoring.yaml") == 4 ]] || fail 'the operator does not print its monitoring objects'
	quietly kubectl apply --server-side --force-conflicts --dry-run=server --validate=strict -f "$STATE/monitoring.yaml" ||
		fail 'a definition refuses what the operator makes'
	sed 's/jobLabel:/jobLable:/' "$STATE/monitoring.yaml" |
		kubectl apply --server-side --force-conflicts --dry-run=server --validate=strict -f - >/dev/null 2>&1 &&
		fail 'the definitions accept anything'
	ok 'the objects fit their definitions, strictly'
}

objects_are_as_told() {
	patch_monitoring '{"alerts": false, "labels": {"release": "x"}}'
	wait_for 20 there_are 0 prometheusrules || fail 'the PrometheusRule stays although alerts are off'
	wait_for 20 eval "[[ \$(kubectl get servicemonitors -A -l release=x --no-headers | wc -l) == 3 ]]" ||
		fail 'ServiceMonitors lack a label'
	patch_monitoring null
	wait_for 20 there_are 1 prometheusrules || fail 'the PrometheusRule does not come back'
	ok 'what is switched off is removed, and labels are as told'
	patch_monitoring '{"namespace": "nowhere"}'
	wait_for 60 degraded_is 'True *nowhere*' || fail "a namespace that is not there: $(degraded)"
	kubectl create namespace nowhere >/dev/null
	wait_for 90 boards_are "$BOARDS" nowhere || fail "boards in the namespace: $(board_count nowhere)"
	wait_for 20 boards_are 0 kube-system || fail 'boards stay where they were'
	wait_for 20 degraded_is 'False *' || fail "Degraded: $(degraded)"
	patch_monitoring null
	wait_for 20 boards_are "$BOARDS" kube-system || fail 'boards do not come back'
	wait_for 20 boards_are 0 nowhere || fail 'boards stay where they were'
	kubectl delete namespace nowhere >/dev/null
	ok 'boards go to the namespace that is named; one that is not there is told'
	kubectl -n kube-system label servicemonitor antrea-agent app=mine --overwrite >/dev/null
	wait_for 20 eval "[[ \$(kubectl -n kube-system get servicemonitor antrea-agent -o jsonpath='{.metadata.labels.app}') == antrea ]]" ||
		fail 'drift of a ServiceMonitor stays'
	ok 'drift of a ServiceMonitor is put back'
}

# The names that promtool complains of are those that are listed because upstream has them; what counts nothing here is not
# there to be complained of.
metrics_are_well_named() {
	local found allowed=$REPO/hack/e2e/promtool-allowed
	found=$(while read -r job url; do
		curl -skf -H "Authorization: Bearer $(<"$PROMETHEUS_DIR/token")" "$url" >"$STATE/metrics" || fail "no metrics of $job"
		promtool check metrics <"$STATE/metrics" 2>&1 || true
	done < <(curl -sf "$PROMETHEUS/api/v1/targets?state=active" |
		jq -r '.data.activeTargets[] | "\(.labels.job) \(.scrapeUrl)"'))
	[[ $found != *'error while linting'* ]] || fail "promtool cannot read metrics: $found"
	[[ $found == *antrea_agent_ovs_flow_ops_count* ]] || fail "promtool complains of no name that it should: $found"
	found=$(comm -13 <(grep -v '^#' "$allowed" | sort) <(awk '{ print $1 }' <<<"$found" | sort -u))
	[[ -z $found ]] || fail "promtool refuses names that nobody has allowed: $found"
	ok 'metrics are named as Prometheus has it, but for upstream names'
}

# Something of everything that is counted: flows added, modified and deleted, policies computed, drift.
work_for_metrics() {
	local round
	sleep "$SCRAPE_WARMUP"
	for round in 1 2 3; do
		kubectl apply -f - >/dev/null <<-END
			apiVersion: networking.k8s.io/v1
			kind: NetworkPolicy
			metadata: {name: measured}
			spec:
			  podSelector: {matchLabels: {app: two}}
			  policyTypes: [Ingress, Egress]
			  ingress: [{from: [{podSelector: {matchLabels: {app: one}}}], ports: [{port: 808$round}]}]
			  egress: [{to: [{podSelector: {}}]}]
			---
			apiVersion: v1
			kind: Service
			metadata: {name: measured}
			spec: {selector: {app: two}, ports: [{port: 808$round, targetPort: 8080}]}
		END
		kubectl -n kube-system label servicemonitor antrea-agent "app=round$round" --overwrite >/dev/null
		sleep "$SCRAPE_INTERVAL"
	done
}

everything_has_data() {
	monitoring_tool verify --prometheus "$PROMETHEUS" --interval "$SCRAPE_INTERVAL" >"$STATE/verify" 2>"$STATE/verify.errors"
}

# Without a Prometheus: what of this part breaks most easily.
monitoring() {
	kinds_appear_later
	objects_fit_their_definitions
	monitoring_crds_down servicemonitors prometheusrules
}

prometheus() {
	build_monitoring_tool
	kinds_appear_later
	objects_fit_their_definitions
	objects_are_as_told
	prometheus_up
	local job count
	for job in antrea-agent antrea-controller antrea-operator; do
		count=1
		[[ $job != antrea-agent ]] || count=$NODES
		wait_for 60 prometheus_sees "$job" "$count" || fail "targets: $(prometheus_targets)"
	done
	ok 'Prometheus scrapes agents, controller and operator by the shipped ServiceMonitors'
	work_for_metrics
	# Flows are compared with what they should be once a minute.
	wait_for 150 everything_has_data || fail "a query has no data: $(<"$STATE/verify.errors")"
	kubectl delete networkpolicy,service measured >/dev/null
	figure "boards and alerts: $(<"$STATE/verify")"
	ok 'every panel and every alert finds data'
	metrics_are_well_named
	monitoring_tool plot --prometheus "$PROMETHEUS" --interval "$SCRAPE_INTERVAL" --out "$REPO/target/dashboards" >/dev/null ||
		fail 'a board cannot be drawn'
	[[ $(find "$REPO/target/dashboards" -name '*.svg' -newer "$STATE/verify" | wc -l) == "$BOARDS" ]] || fail 'a picture is missing'
	ok 'every board is drawn: target/dashboards'
	prometheus_down
	monitoring_crds_down servicemonitors prometheusrules
}
