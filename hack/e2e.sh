#!/bin/bash
# The cluster suite: a real two-node Kubernetes is made, looked at from outside, and taken away. What is
# looked at is in hack/e2e/, one file per behaviour.
#   e2e.sh [PART]...   these parts in this order; all without an argument:
#                      crash connectivity services proxy traffic policies native actions names native_gate traceflow lookers spec settings rollout restart health damage prometheus netpol manifest removal olm legacy
#                      or, shorter: crash_once for crash, monitoring for prometheus; and service_specs: Kubernetes' own of Services
#   OLM_RULES=v0|v1     how one generation of OLM installs, not both
#   NETPOL=some|none   a selection of Kubernetes' NetworkPolicy specs, or none of them, instead of all
#   KEEP=1             leaves the cluster running at the end; ATTACH=1: uses the one that runs, and leaves it
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/node.sh"
. "$(dirname "$0")/install.sh"
. "$(dirname "$0")/e2e/lib.sh"
. "$(dirname "$0")/e2e/crash.sh"
. "$(dirname "$0")/e2e/connectivity.sh"
. "$(dirname "$0")/e2e/services.sh"
. "$(dirname "$0")/e2e/traffic.sh"
. "$(dirname "$0")/e2e/policy.sh"
. "$(dirname "$0")/e2e/traceflow.sh"
. "$(dirname "$0")/e2e/native.sh"
. "$(dirname "$0")/e2e/actions.sh"
. "$(dirname "$0")/e2e/names.sh"
. "$(dirname "$0")/e2e/installation.sh"
. "$(dirname "$0")/e2e/settings.sh"
. "$(dirname "$0")/e2e/lookers.sh"
. "$(dirname "$0")/e2e/uninstall.sh"
. "$(dirname "$0")/e2e/restart.sh"
. "$(dirname "$0")/e2e/legacy.sh"
. "$(dirname "$0")/e2e/health.sh"
. "$(dirname "$0")/e2e/damage.sh"
. "$(dirname "$0")/e2e/prometheus.sh"
. "$(dirname "$0")/e2e/olm.sh"
. "$(dirname "$0")/e2e/rollout.sh"
. "$(dirname "$0")/e2e/proxy.sh"
need_root
NETPOL=${NETPOL:-all}

parts=("$@")
if ((${#parts[@]} == 0)); then
	parts=(connectivity services proxy traffic policies native actions names native_gate traceflow lookers spec settings rollout restart health damage prometheus netpol manifest removal olm legacy)
	[[ -n ${ATTACH:-} ]] || parts=(crash "${parts[@]}")
fi
for part in "${parts[@]}"; do
	declare -F "$part" >/dev/null || die "there is no part $part"
done

# Control groups of whoever runs this script come and go meanwhile; ours have their own name.
export LEFTOVERS_IGNORE=${LEFTOVERS_IGNORE:-'cgroup .*/(process_api|system\.slice|user\.slice)(/|$)'}
snapshot=$(mktemp)
finish() {
	local status=$?
	trap - EXIT
	stop_loads
	if [[ -z ${KEEP:-}${ATTACH:-} ]]; then
		"$REPO/hack/cluster.sh" down
		if ((status == 0)); then
			if "$REPO/hack/leftovers.sh" compare "$snapshot"; then ok 'nothing was left behind'; else status=1; fi
		fi
	fi
	rm -f "$snapshot"
	((status != 0)) || { printf '%s\n' "${figures[@]}" "$passed passed, 0 failed"; }
	exit "$status"
}

if [[ -z ${ATTACH:-} ]]; then
	"$REPO/hack/cluster.sh" down
	"$REPO/hack/leftovers.sh" snapshot "$snapshot"
fi
trap finish EXIT
# Without these, a script that is ended leaves through EXIT with the status of whatever was before.
trap 'exit 130' INT
trap 'exit 143' TERM
if [[ ${parts[0]} == crash* ]]; then
	"${parts[0]}"
	parts=("${parts[@]:1}")
fi
[[ -n ${ATTACH:-} ]] || "$REPO/hack/cluster.sh" up
world_up
make_pods
for part in "${parts[@]}"; do
	say "---- $part"
	"$part"
done
