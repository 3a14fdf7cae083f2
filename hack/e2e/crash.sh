# shellcheck shell=bash
# `make up` killed half way, at several moments: `make down` leaves nothing behind all the same. Sourced by
# hack/e2e.sh.

# What `up` has reached, by what it has said.
said() { grep -q "$1" "$CRASH_LOG"; }

crash() { crash_at 'starting 2 nodes' 'starting kubelet' 'waiting for the nodes to be Ready'; }

# The moment that leaves most behind.
crash_once() { crash_at 'waiting for the nodes to be Ready'; }

# crash_at MOMENT...
crash_at() {
	local moment up snapshot
	CRASH_LOG=$(mktemp) snapshot=$(mktemp)
	"$REPO/hack/leftovers.sh" snapshot "$snapshot"
	for moment; do
		: >"$CRASH_LOG"
		# A session of its own: all of `up` ends at once, whatever it is doing, as in a power cut of the shell.
		setsid "$REPO/hack/cluster.sh" up >/dev/null 2>"$CRASH_LOG" &
		up=$!
		wait_for 900 eval "said '$moment' || ! kill -0 $up 2>/dev/null" || die "up never came to \"$moment\""
		said "$moment" || {
			cat "$CRASH_LOG" >&2
			die "up ended before \"$moment\""
		}
		kill -KILL -- "-$up"
		wait "$up" 2>/dev/null || true
		"$REPO/hack/cluster.sh" down
		"$REPO/hack/leftovers.sh" compare "$snapshot" || die "up killed at \"$moment\" left something behind"
	done
	rm -f "$CRASH_LOG" "$snapshot"
	ok "make up killed at $# moments, then make down: nothing is left"
}
