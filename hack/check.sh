#!/bin/bash
# Formatting and lints.
. "$(dirname "$0")/lib.sh"
cd "$REPO"
cargo fmt --all --check
cargo clippy --workspace --all-targets -- -D warnings
if command -v shellcheck >/dev/null; then
	shellcheck -x -P hack hack/*.sh build/{agent-root.sh,start_ovs,install_cni}
fi
