#!/bin/bash
# All measurements.
. "$(dirname "$0")/lib.sh"
cd "$REPO"
cargo bench --workspace
