# shellcheck shell=bash
# NetworkPolicy: by hand through the aggregated API, and Kubernetes' own specs. Sourced by hack/e2e.sh.

policies() {
	kubectl apply -f - >/dev/null <<-END
		apiVersion: networking.k8s.io/v1
		kind: NetworkPolicy
		metadata: {name: only-one}
		spec:
		  podSelector: {matchLabels: {app: two}}
		  ingress: [{from: [{podSelector: {matchLabels: {app: left}}}]}]
	END
	wait_for 10 refused one "$TWO:8080" || fail 'the policy does not hold'
	quietly in_pod left curl -sSf -m 3 "http://$TWO:8080/hostname" || fail 'the policy keeps out whom it allows'
	refused one "$TWO:8080" || fail 'the policy does not hold any more'
	kubectl get networkpolicies.controlplane.antrea.io,addressgroups,appliedtogroups >/dev/null ||
		fail 'the aggregated API does not answer'
	ok 'a policy holds, and the aggregated API shows it'
	kubectl delete networkpolicy only-one >/dev/null
	wait_for 10 connects one "$TWO:8080" || fail 'a deleted policy still holds'
	ok 'a deleted policy is gone'
}

# Whether pods can open SCTP sockets; a kernel without them gives EPROTONOSUPPORT.
kernel_has_sctp() { in_pod left python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)' 2>/dev/null; }

# The only specs that cannot run where no SCTP socket can be opened, for their servers do not start. SCTP rules
# have tests of their own at the level of flows; specs that only name SCTP in a policy run everywhere.
SCTP="Netpol [Feature:SCTPConnectivity] [LinuxOnly] NetworkPolicy between server and client using SCTP should"
SCTP_SPECS=(
	"$SCTP support a 'default-deny-ingress' policy"
	"$SCTP enforce policy based on Ports"
	"$SCTP enforce policy to allow traffic only from a pod in a different namespace based on PodSelector and NamespaceSelector"
)

# Default deny, allow by pod and namespace, ports by number and name, CIDR with except, updates.
SELECTION='default-deny-ingress|allow traffic from pods within server namespace based on PodSelector|allow ingress traffic for a target|based on Ports|named port|enforce except clause|updated policy|deny egress from pods based on PodSelector|stacked policies'

specs_that_ran() { sed -n 's/^Ran \([0-9]*\) of.*/\1/p' "$1"; }

# A regular expression for exactly these texts, at the beginning of a spec's name or after a blank.
exactly() {
	local texts=("$@")
	printf '%s\n' "${texts[@]}" | sed 's/[][().*+?^$|\\]/\\&/g' | paste -sd'|' -
}

# Specs that began and found that they cannot run here, with what they say of it.
specs_that_gave_up() {
	jq -r '.[].SpecReports[] | select(.State == "skipped" and (.Failure.Message // "") != "") |
		"\(.ContainerHierarchyTexts + [.LeafNodeText] | join(" ")): \(.Failure.Message)"' "$1"
}

# kubernetes_specs WHAT FOCUS WANTED [OPTION]...: specs of Kubernetes' own suite, of which at least WANTED run, each passing
# at once, and none gives up: whoever knows that one cannot run leaves it out by its name.
kubernetes_specs() {
	local what=$1 focus=$2 wanted=$3 bin log=$STATE/logs/$1.log gave_up
	shift 3
	bin=$("$REPO/hack/tools.sh" e2e)
	say "$what specs of Kubernetes: $focus"
	"$bin/ginkgo" -procs="${SPEC_PROCS:-4}" --no-color --flake-attempts=1 --output-dir="$STATE/logs" --json-report="$what.json" \
		--focus="$focus" "$@" "$bin/e2e.test" -- \
		--kubeconfig="$KUBECONFIG_PATH" --provider=skeleton --num-nodes="$NODES" >"$log" 2>&1 || {
		grep -E '\[FAIL|\[TIMEDOUT|Ran [0-9]+ of' "$log" | tail -n 30 >&2
		fail "$what specs failed; all of their output is in $log"
	}
	grep -E '^Ran [0-9]+ of' "$log" >&2
	# A connection that a policy should have stopped is no flake, however the next attempt ends.
	! grep -qE '\[FLAK|[1-9][0-9]* Flaked' "$log" || fail "a $what spec did not pass at once; see $log"
	gave_up=$(specs_that_gave_up "$STATE/logs/$what.json") || fail "the report of the $what specs cannot be read"
	[[ -z $gave_up ]] || fail "$what specs gave up: $gave_up"
	(($(specs_that_ran "$log") >= wanted)) || fail "$(specs_that_ran "$log") specs ran, not $wanted"
	figure "$(specs_that_ran "$log") $what specs passed"
	ok "$(specs_that_ran "$log") $what specs of Kubernetes"
}

netpol() {
	local focus=Netpol skip=() wanted=50
	case $NETPOL in
	none) return 0 ;;
	some) focus="Netpol.*($SELECTION)" wanted=1 ;;
	all) ;;
	*) die "NETPOL=$NETPOL is none of all, some, none" ;;
	esac
	if ! kernel_has_sctp; then
		note "this kernel has no SCTP sockets: ${#SCTP_SPECS[@]} specs cannot start their servers"
		skip=(--skip="$(exactly "${SCTP_SPECS[@]}")")
		[[ $NETPOL != all ]] || wanted=$((wanted - ${#SCTP_SPECS[@]}))
	fi
	kubernetes_specs NetworkPolicy "$focus" "$wanted" "${skip[@]}"
}
