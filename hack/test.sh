#!/bin/bash
# Tests. `make test` runs these stages, `make test-all` the same at full length and some more:
#   build     every binary and every test, once, for all stages (profile ci)
#   check     formatting, lints, boards and alerts by the tools of those who read them, Headlamp's plugin but for its pages
#   unit      every crate: unit, property, golden, generated files, licences and sources of dependencies; real Open
#             vSwitch; root tests in namespaces of their own
#   node      agents, CNI plugin and Open vSwitch on nodes that are namespaces (userspace datapath); runs beside check and unit
#   kernel    what differs on the kernel datapath, in a kernel that is a process; runs beside them, too
#   cluster   a real two-node Kubernetes: operator, one AntreaInstallation, pods, policies, and nothing left
#   noipv6, deny, ui, fuzz, bench   only in test-all: a kernel that was started with ipv6.disable=1, cargo-deny, Octant
#             itself with its plugin, Headlamp's plugin in a browser, each fuzz target for ten minutes, all measurements
# test.sh STAGE... runs only these. A stage that fails does not hide the others, except build; a table of stages and
# times ends the run. Settings: FULL=1 (what test-all sets), LOGS=FOLDER (default: the cache).
# shellcheck disable=SC2317 # stages are called by their names
. "$(dirname "$0")/lib.sh"
cd "$REPO"
need_root
export RUST_BACKTRACE=${RUST_BACKTRACE:-0}
FULL=${FULL:-}
LOGS=${LOGS:-$CACHE/logs}
mkdir -p "$LOGS"
wanted=("$@")
if ((${#wanted[@]} == 0)); then
	wanted=(check unit node kernel cluster)
	[[ -z $FULL ]] || wanted+=(noipv6 deny ui fuzz bench)
fi

for stage in "${wanted[@]}"; do
	[[ $stage == @(check|unit|node|kernel|cluster|noipv6|deny|ui|fuzz|bench) ]] || die "there is no stage $stage"
done

wants() {
	local stage
	for stage; do [[ " ${wanted[*]} " != *" $stage "* ]] || return 0; done
	return 1
}

# ---- stages ---------------------------------------------------------------------------------------------------------

# What Go builds, and the images' Debian: cached for long, minutes on a fresh machine.
stage_tools() {
	hack/tools.sh cni
	hack/tools.sh sshd
	if wants cluster; then
		hack/tools.sh kubernetes
		hack/tools.sh agnhost
		hack/tools.sh e2e
		hack/tools.sh coredns
		hack/images.sh base
	fi
	if wants check; then hack/tools.sh dashboards; fi
	if wants kernel noipv6; then hack/guest.sh -b; fi
}

stage_build() { cargo build --locked "${CI_BUILD[@]}" "${CI_TARGETS[@]}"; }

# Fails with what the compiler, or clippy in it, has to say of any target. Most of it is built; cargo says it again.
no_warnings() {
	local warnings
	warnings=$({
		cargo build --locked "${CI_BUILD[@]}" "${CI_TARGETS[@]}" --bench '*' --message-format=json ||
			echo '{"reason": "compiler-message", "message": {"rendered": "it does not build"}}'
	} | jq -r 'select(.reason == "compiler-message") | .message.rendered')
	[[ -z $warnings ]] || die "$warnings"
}

# The cheapest first: what stops most changes is told within seconds. This and the next step back behind what runs beside
# them and has to answer in time.
stage_check() {
	renice -n 10 "$BASHPID" >/dev/null
	cargo fmt --all --check
	shellcheck -x -P hack hack/*.sh hack/e2e/*.sh build/{agent-root.sh,start_ovs,install_cni,load_modules} .ci/run
	no_warnings
	hack/monitoring.sh
	hack/headlamp.sh check
}

stage_unit() {
	renice -n 10 "$BASHPID" >/dev/null
	# Checkouts share their builds, and a program that another one built would look for its goldens there.
	export INSTA_WORKSPACE_ROOT=$REPO
	cargo test --locked "${CI_BUILD[@]}" --workspace --exclude antrea-tests --no-fail-fast
	"$(test_program antrea_tests)"
}

# Which of the 48 orders of failure, and how many attachments: a quarter of the orders, another one for each commit.
node_numbers() {
	if [[ -n $FULL ]]; then
		export ANTREA_TEST_RANDOM_SECONDS=600 ANTREA_TEST_CONNECTIONS=20000 ANTREA_TEST_ENDPOINT_SECONDS=60
	else
		export ANTREA_TEST_ORDERS=12 ANTREA_TEST_CHURN=100
	fi
}

stage_node() {
	node_numbers
	# What takes minutes and is about the second family, or about cases of what is tested in the first: test-all's.
	local skip=(--skip mixed:: --skip proxy_all::damage --skip reachability::under_deny_all_beside_iptables_in_ipv6
		--skip reachability::under_deny_all_without_kube_proxy_in_ipv6 --skip random::random_policies_do_so_with_ipv6
		--skip proxy_all::egress::nor_by_any_ipv6_address --skip forwarded::those_of_ipv6
		--skip proxy_all::policy::so_does_what_they_translate_of_ipv6
		--skip failclosed::a_cold_start_without_a_controller_native)
	if [[ -n $FULL ]]; then
		skip=()
		cargo build --locked "${CI_BUILD[@]}" --target-dir "$CACHE/future" --features antrea-api/future --bins \
			-p antrea-api -p antrea-agent -p antrea-controller
		export ANTREA_FUTURE_BIN=$CACHE/future/$TARGET/ci
	fi
	ANTREA_CNI_PLUGINS=$(hack/tools.sh cni) "$(test_program node)" --test-threads=1 --nocapture "${skip[@]}"
}

# Tests whose answer depends on the datapath. The others would only be the same again. Every kind of tunnel is in tunnel::,
# and what native policies say of endpoints reached without one is left to test-all.
KERNEL_TESTS=(
	bandwidth:: connectivity::both connectivity::encap_with_the connectivity::hybrid connectivity::no_encap
	datapath::auto datapath::the_kernels departed:: failclosed::a_cold_start forwarded::node_ports fqdn:: fragments:: hairpin::
	established:: handover:: ipvs:: isolation:: audit:: native:: np_log:: ovs::a_pod_deleted ovs::each_daemon peers::peers_follow
	proxy:: proxy_all::balancer::the_local proxy_all::policy::what proxy_all::refusal
	reject:: replaced:: restart::an_agent_restart services::egress services::native_egress_policy_holds_for_endpoints_that spoofing::
	to_services:: traceflow:: tunnel:: --skip handover::nor_one_of_ipv6
)

stage_kernel() {
	local tests=("${KERNEL_TESTS[@]}")
	# Ten thousands of probes and handshakes on time are nothing for one processor. antctl is not in the guest: what it says
	# does not depend on the datapath.
	[[ -z $FULL ]] || tests=(--skip hostile:: --skip mixed:: --skip antctl::)
	ANTREA_CNI_PLUGINS=$(hack/tools.sh cni) hack/kernel-suite.sh "$(test_program node)" "${tests[@]}"
}

# What has pods on a kernel without IPv6, what judges them at the host, and what takes all of it away.
NOIPV6_TESTS=(noipv6:: restart::an_agent_restart services::egress_policy_holds_for_endpoints_that_are_no_pods uninstall::)

stage_noipv6() {
	ANTREA_CNI_PLUGINS=$(hack/tools.sh cni) GUEST_KERNEL=ipv6.disable=1 \
		hack/kernel-suite.sh "$(test_program node)" "${NOIPV6_TESTS[@]}"
}

# test-all looks at what is shipped, without a kube-proxy and with one in both modes that the local cluster has, and runs all of Kubernetes'
# NetworkPolicy specs, which take as long as everything else here together.
stage_cluster() {
	if [[ -n $FULL ]]; then
		ANTREA_PROFILE=shipped hack/e2e.sh
		ANTREA_PROFILE=shipped hack/e2e.sh connectivity service_specs
		ANTREA_PROFILE=shipped KUBE_PROXY_MODE=nftables hack/e2e.sh connectivity services
		ANTREA_PROFILE=shipped KUBE_PROXY_MODE=iptables hack/e2e.sh connectivity services traffic policies native actions names proxy spec settings legacy
	else
		NETPOL=some hack/e2e.sh crash_once connectivity services traffic policies native names traceflow lookers spec restart health monitoring netpol removal
	fi
}

stage_deny() { "$(hack/tools.sh deny)/cargo-deny" --all-features check bans licenses sources; }

stage_ui() {
	hack/ui.sh "$ANTREA_BIN"
	SCREENSHOTS=$LOGS/headlamp hack/headlamp.sh browser
}

stage_fuzz() { hack/fuzz.sh 600; }

stage_bench() { hack/bench.sh; }

# ---- running them ---------------------------------------------------------------------------------------------------

declare -A verdict seconds began
ran=()
failed=0

# counted STAGE: passed and failed tests, of cargo's test harness and of the suites in shell.
counted() {
	awk '{ sub(/^ *[0-9]+  /, "") }
		/^test result: / { passed += $4; failed += $6 } /^[0-9]+ passed, [0-9]+ failed$/ { passed += $1; failed += $3 }
		END { print passed + 0, failed + 0 }' "$LOGS/$1.log"
}

# broken STAGE: what a stage that failed has to say of it, for who sees the end of a long log only: of cargo's harness what
# panics and errors said and the tests' names, of the suites in shell the last lines.
broken() {
	awk -v stage="$1" '{ sub(/^ *[0-9]+  /, "") }
		/^failures:$/ { list = 1; next }
		/^test result: / { list = 0 }
		list && /^    [a-z0-9_]+(::[a-z0-9_]+)*$/ { names[$1] }
		/^thread .* panicked at |^Error: / { rest = 4 }
		rest-- > 0 { said[++count] = $0 }
		{ last[NR % 5] = $0 }
		function tell(line) { print stage ": " substr(line, 1, 400) }
		END {
			for (at = count > 20 ? count - 19 : 1; at <= count; at++) tell(said[at])
			for (name in names) { tell("FAILED " name); named = 1 }
			if (!named) for (at = NR > 5 ? NR - 4 : 1; at <= NR; at++) tell(last[at % 5])
		}' "$LOGS/$1.log"
}

table() {
	local stage counts good=0 bad=0
	printf '\n%-9s %8s %7s %7s  %s\n' stage seconds passed failed verdict
	for stage in "${ran[@]}"; do
		counts=$(counted "$stage")
		printf '%-9s %8d %7d %7d  %s\n' "$stage" "${seconds[$stage]:-0}" "${counts% *}" "${counts#* }" "${verdict[$stage]:-ended}"
		good=$((good + ${counts% *})) bad=$((bad + ${counts#* }))
	done
	for stage in "${ran[@]}"; do
		[[ ${verdict[$stage]:-ended} == passed ]] || broken "$stage"
	done
	elapsed | awk '{ printf "in all %.1f minutes\n", $1 / 60 }'
	echo "$good passed, $bad failed"
}

# What runs beside, by stage: each in a process group of its own, so that whatever it has started ends with it.
declare -A beside

finish() {
	local status=$? stage
	trap - EXIT INT TERM
	for stage in "${!beside[@]}"; do kill -- "-${beside[$stage]}" 2>/dev/null || true; done
	table
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

begin() {
	ran+=("$1")
	began[$1]=$EPOCHSECONDS
	say "$1: began"
}

# ended STAGE STATUS
ended() {
	seconds[$1]=$(($(stat -c %Y "$LOGS/$1.log") - began[$1]))
	if (($2 == 0)); then
		verdict[$1]=passed
	else
		verdict[$1]="FAILED; its output is in $LOGS/$1.log"
		failed=1
	fi
	say "$1: ${verdict[$1]}, ${seconds[$1]} s"
}

# Every line with the seconds since the stage began, so that a log tells what takes long.
stamped() {
	local start=$EPOCHSECONDS line
	while IFS= read -r line || [[ -n $line ]]; do printf '%5d  %s\n' $((EPOCHSECONDS - start)) "$line"; done
}

# Must not be part of a condition: bash goes on after errors within one, whatever a subshell sets. Hence no status; see
# verdict.
run() {
	local status=0
	begin "$1"
	set +e
	(set -e; "stage_$1") 2>&1 | stamped | tee "$LOGS/$1.log"
	status=${PIPESTATUS[0]}
	set -e
	ended "$1" "$status"
}

start() {
	begin "$1"
	set -m
	(
		set -e -o pipefail
		trap 'touch "$LOGS/$1.log"' EXIT # when it ended, which may be long before somebody asks
		"stage_$1" 2>&1 | stamped >"$LOGS/$1.log"
	) &
	beside[$1]=$!
	set +m
}

# finished STAGE: waits for what runs beside, and shows what it said.
finished() {
	local status=0
	[[ -n ${beside[$1]:-} ]] || return 0
	wait "${beside[$1]}" || status=$?
	unset "beside[$1]"
	say "---- output of $1"
	cat "$LOGS/$1.log"
	ended "$1" "$status"
}

hack/deps.sh
# The compiler leaves a core idle now and then, and Go's takes what is left.
if wants check node kernel cluster noipv6; then start tools; fi
if wants check unit node kernel cluster noipv6 ui; then
	run build
	[[ ${verdict[build]} == passed ]] || exit 1
	ANTREA_BIN=$REPO/target/$TARGET/ci
	export ANTREA_BIN ANTREA_RELEASE=$ANTREA_BIN
fi
[[ -z $FULL ]] || unset ANTREA_RELEASE
# The guest has one processor, and nodes mostly wait. What they need of the tools is made by then, or made once by whoever
# is first.
if wants kernel; then start kernel; fi
if wants node; then start node; fi
if wants check; then run check; fi
if wants unit; then run unit; fi
finished node
finished kernel
finished tools
# From here on times matter: nothing else runs.
if wants cluster; then run cluster; fi
for stage in noipv6 deny ui fuzz bench; do
	if wants "$stage"; then run "$stage"; fi
done
exit "$failed"
