#!/bin/bash
# What the host has, to be compared before and after:
#   leftovers.sh snapshot FILE
#   leftovers.sh compare FILE   prints what has come (+) or gone (-) since; fails if there is anything
# LEFTOVERS_IGNORE is an extended regular expression for lines that something else is known to change.
set -euo pipefail

# Processes by program, not by pid; without kernel threads, which are children of process 2, without
# the session that this runs in (daemons have sessions of their own), and without those that have ended
# and wait for process 1 to take note, which is not ours to hurry.
processes() {
	local own
	own=$(ps -o sid= -p $$)
	ps -eww -o stat= -o sid= -o ppid= -o pid= -o args= |
		awk -v own="$own" '$1 !~ /^Z/ && $2 != own + 0 && $3 != 2 && $4 != 2 {
			$1 = $2 = $3 = $4 = ""; print substr($0, 5, 200) }'
}

# How many there are of each kind. Processes come and go under find's feet.
namespaces() {
	ps -eo stat=,pid= | awk '$1 !~ /^Z/ { for (n = split("net mnt uts pid", kind); n; n--)
			print "/proc/" $2 "/ns/" kind[n] }' |
		{ xargs readlink 2>/dev/null || true; } | sort -u | sed 's/:.*//' | uniq -c
}

# Without counters. An empty chain of a legacy table comes into being when it is looked at.
firewall() {
	local command
	for command in iptables-legacy-save ip6tables-legacy-save; do
		if command -v "$command" >/dev/null; then "$command" | sed -n '/^-A/p; /^:[A-Z]* ACCEPT/d; /^:/s/ .*//p'; fi
	done
	if command -v nft >/dev/null; then nft -s list ruleset; fi
	if command -v ipset >/dev/null; then ipset list -n; fi
}

sysctls() { { sysctl -a 2>/dev/null || true; } | grep -E '^(net\.ipv[46]\.(ip_forward|conf\.(all|default)\.)|vm\.(overcommit_memory|panic_on_oom)|kernel\.(panic|keys))'; }

snapshot() {
	{
		processes | sed 's/^/process /'
		namespaces | sed 's/^ */namespaces /'
		[[ ! -d /run/netns ]] || find /run/netns | sed 's/^/netns /'
		ip -o link | awk -F'[:@] ' '{ print "link " $2 }'
		ip -4 -o addr | awk '{ print "address " $2 " " $4 }'
		ip route show table all | sed 's/^/route /'
		awk '{ print "mount " $5 }' /proc/self/mountinfo
		find /sys/fs/cgroup -type d | sed 's/^/cgroup /'
		firewall | sed 's/^/rule /'
		sysctls | sed 's/^/sysctl /'
		# A file may go while find looks at it.
		{ find /run /etc /opt /var/lib /var/log -xdev 2>/dev/null || true; } | sed 's/^/file /'
	} | sort
}

ignore() { if [[ -n ${LEFTOVERS_IGNORE:-} ]]; then grep -vE "$LEFTOVERS_IGNORE" || true; else cat; fi; }

case ${1:-} in
snapshot) snapshot >"$2" ;;
compare)
	# What has been told to end may still be about it.
	for _ in {1..10}; do
		difference=$(diff <(ignore <"$2") <(snapshot | ignore) | sed -n 's/^</-/p; s/^>/+/p' || true)
		[[ -n $difference ]] || exit 0
		sleep 1
	done
	echo "$difference"
	exit 1
	;;
*)
	sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
