#!/bin/bash
# Formatting and lints of Rust and shell, and what the dependencies are.
. "$(dirname "$0")/lib.sh"
cd "$REPO"
cargo fmt --all --check
cargo clippy --workspace --all-targets -- -D warnings
shellcheck -x -P hack hack/*.sh build/{agent-root.sh,start_ovs,install_cni} .ci/run
"$(hack/tools.sh deny)/cargo-deny" --all-features check bans licenses sources
