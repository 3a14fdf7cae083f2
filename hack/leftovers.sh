#!/bin/bash
# What the host has, to be compared before and after:
#   leftovers.sh snapshot FILE
#   leftovers.sh compare FILE   prints what has come (+) or gone (-) since; fails if there is anything
# LEFTOVERS_IGNORE is an extended regular expression for lines that something else is known to change.
set -euo pipefail

# Processes by program, not by pid; without kernel threads and without this very command, its
# ancestors and its children.
processes() {
	local own=$BASHPID parent family=()
	while ((own > 1)); do
		family+=("$own")
		parent=$(awk '/^PPid:/ { print $2 }' "/proc/$own/status")
		own=$parent
	done
	local pid directory
	for directory in /proc/[0-9]*; do
		pid=${directory#/proc/}
		# A kernel thread has no command line, a process that has just ended has none any more.
		[[ " ${family[*]} " != *" $pid "* && -n $(tr '\0' ' ' <"$directory/cmdline" 2>/dev/null) ]] || continue
		grep -q "^PPid:[[:space:]]*$BASHPID\$" "$directory/status" 2>/dev/null && continue
		tr '\0' ' ' <"$directory/cmdline" 2>/dev/null | cut -c1-200 || true
		echo
	done | sed '/^$/d'
}

namespaces() { find /proc/[0-9]*/ns/{net,mnt,uts,pid} -maxdepth 0 -exec readlink {} + 2>/dev/null | sort -u | sed 's/:.*//' | uniq -c; }

firewall() {
	# Counters and comments with times change by themselves.
	local command
	for command in iptables-nft-save iptables-legacy-save ip6tables-nft-save ip6tables-legacy-save; do
		# Legacy tables come into being when they are looked at: count rules and chains, not tables.
		if command -v $command >/dev/null; then $command 2>/dev/null | grep -E '^(-A|:)' | grep -vE '^:[A-Z]+ ACCEPT' | sed 's/\[.*//'; fi
	done
	if command -v nft >/dev/null; then nft -s list ruleset 2>/dev/null | grep -vE '^#' ; fi
	if command -v ipset >/dev/null; then ipset list -n 2>/dev/null; fi
	return 0
}

sysctls() { sysctl -a 2>/dev/null | grep -E '^(net\.ipv[46]\.(ip_forward|conf\.(all|default)\.)|vm\.(overcommit_memory|panic_on_oom)|kernel\.(panic|keys))'; }

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
	difference=$(diff <(ignore <"$2") <(snapshot | ignore) | sed -n 's/^</-/p; s/^>/+/p' || true)
	[[ -z $difference ]] || {
		echo "$difference"
		exit 1
	}
	;;
*)
	sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
