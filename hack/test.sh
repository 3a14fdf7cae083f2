#!/bin/bash
# All tests.
. "$(dirname "$0")/lib.sh"
cd "$REPO"
hack/check.sh
cargo test --workspace
