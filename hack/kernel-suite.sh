#!/bin/bash
# The node suite on Open vSwitch's kernel datapath: in a Debian kernel, which qemu runs in software where
# the host has no such module. All tests, with those that can run nowhere else, unless arguments select some, as
# for any test binary.
#   kernel-suite.sh NODE_SUITE_BINARY [TEST...]
. "$(dirname "$0")/lib.sh"

export KVMTEST_CACHE=${KVMTEST_CACHE:-$CACHE/kvmtest} KVMTEST_DEBIAN=$DEBIAN
suite=$1
shift
stage=$(mktemp -d "${TMPDIR:-/tmp}/antrea-kernel.XXXXXX")
trap 'rm -rf "$stage"' EXIT
mkdir "$stage/plugins"
# Without symbols: every page comes through the shared folder.
for binary in antrea-agent antrea-cni antrea-controller; do
	strip -o "$stage/$binary" "$ANTREA_BIN/$binary"
done
strip -o "$stage/node-suite" "$suite"
cp "$ANTREA_CNI_PLUGINS"/{host-local,portmap,bandwidth,cnitool} "$stage/plugins/"
# The guest has no certificates, and a TLS stack does not start without one. Nothing is checked with it.
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=nobody -days 1 -keyout /dev/null -out "$stage/ca.pem" 2>/dev/null
churn=10 orders=4
[[ -z ${FULL:-} ]] || churn=1000 orders=48
cat >"$stage/run" <<END
#!/bin/bash
modprobe -a tun openvswitch geneve vxlan ip_gre vport-geneve vport-vxlan vport-gre xt_set ip_set_hash_net ip_vs ip_vs_rr dummy
mkdir -p /run/netns
cd /tmp
# The shared folder is read anew by every process that starts from it.
cp -r $stage bin
export ANTREA_BIN=/tmp/bin ANTREA_CNI_PLUGINS=/tmp/bin/plugins SSL_CERT_FILE=$stage/ca.pem RUST_BACKTRACE=0
# A machine in software takes its time: the same tests, with smaller numbers where they repeat.
export ANTREA_TEST_DATAPATH=system ANTREA_TEST_CHURN=$churn ANTREA_TEST_ORDERS=$orders
exec bin/node-suite --nocapture --include-ignored --test-threads=1 "\$@"
END
chmod +x "$stage/run"
# What runs beside steps back: a machine in software that waits for a core misses what its tests wait for.
KVMTEST_NICE=0 "$REPO/hack/kvmtest" -v -t "${KVMTEST_LIMIT:-3600}" -m 1500 -d "$stage" -- ./run "$@"
