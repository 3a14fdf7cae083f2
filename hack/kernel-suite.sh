#!/bin/bash
# The node suite on Open vSwitch's kernel datapath: in a Debian kernel, which qemu runs in software where
# the host has no such module. Arguments select tests, as for any test binary.
#   kernel-suite.sh NODE_SUITE_BINARY [TEST...]
. "$(dirname "$0")/lib.sh"

suite=$1
shift
stage=$(mktemp -d "${TMPDIR:-/tmp}/antrea-kernel.XXXXXX")
trap 'rm -rf "$stage"' EXIT
mkdir "$stage/plugins"
cp "$ANTREA_BIN/antrea-agent" "$ANTREA_BIN/antrea-cni" "$ANTREA_BIN/antrea-controller" "$stage/"
cp "$suite" "$stage/node-suite"
cp "$ANTREA_CNI_PLUGINS/host-local" "$stage/plugins/"
# The guest has no certificates, and a TLS stack does not start without one. Nothing is checked with it.
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=nobody -days 1 -keyout /dev/null -out "$stage/ca.pem" 2>/dev/null
cat >"$stage/run" <<END
#!/bin/bash
modprobe -a openvswitch geneve vxlan ip_gre vport-geneve vport-vxlan vport-gre xt_set ip_set_hash_net
mkdir -p /run/netns
cd /tmp
export ANTREA_BIN=$stage ANTREA_CNI_PLUGINS=$stage/plugins SSL_CERT_FILE=$stage/ca.pem RUST_BACKTRACE=0
exec $stage/node-suite --nocapture --test-threads=1 "\$@"
END
chmod +x "$stage/run"
export KVMTEST_CACHE=${KVMTEST_CACHE:-$CACHE/kvmtest}
"$REPO/hack/kvmtest" -v -t 1500 -m 1500 -d "$stage" -- ./run "$@"
