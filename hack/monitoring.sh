#!/bin/bash
# Boards and alerts by the tools of those who read them: Grafana's own types, strictly, and promtool. Needs no
# cluster; `cargo test -p dashboards` holds them to rules of our own.
. "$(dirname "$0")/lib.sh"
cd "$REPO"

boards=(config/monitoring/dashboards/*.json)
[[ -e ${boards[0]} ]] || die 'there is no board in config/monitoring/dashboards'
strict=$(hack/tools.sh dashboards)/dashboards

"$strict" "${boards[@]}" || die 'Grafana does not understand a board'
# The decoder must be able to say no: a wrong name in a target, in options, at the top.
spoilt=$(mktemp)
trap 'rm -f "$spoilt"' EXIT
for change in s/legendFormat/legendFromat/ s/\"displayMode\"/\"displayMod\"/ s/\"graphTooltip\"/\"graphTooltips\"/; do
	sed "$change" "${boards[0]}" >"$spoilt"
	if "$strict" "$spoilt" 2>/dev/null; then die "Grafana's types accept a board after $change"; fi
done
note "Grafana's types accept ${#boards[@]} boards"

promtool check rules config/monitoring/rules.yaml >&2
promtool test rules config/monitoring/tests/alerts.yaml >&2
# And promtool: a case that no longer fires must be told.
mkdir "$spoilt.d"
trap 'rm -rf "$spoilt" "$spoilt.d"' EXIT
mkdir "$spoilt.d/tests"
cp config/monitoring/tests/alerts.yaml "$spoilt.d/tests/"
sed 's/== 0/== 7/' config/monitoring/rules.yaml >"$spoilt.d/rules.yaml"
if promtool test rules "$spoilt.d/tests/alerts.yaml" >/dev/null 2>&1; then die 'the cases of alerts cannot fail'; fi
note 'every alert fires when it should'
