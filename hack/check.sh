#!/bin/bash
# Formatting and lints of Rust and shell.
. "$(dirname "$0")/lib.sh"
cd "$REPO"
cargo fmt --all --check
cargo clippy --workspace --all-targets -- -D warnings
shellcheck -x -P hack hack/*.sh hack/e2e/*.sh build/{agent-root.sh,start_ovs,install_cni,load_modules} .ci/run
