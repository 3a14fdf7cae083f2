#!/bin/bash
# The node suite on Open vSwitch's kernel datapath, in a kernel of its own (guest.sh). All tests, with those that can run
# nowhere else, unless arguments select some, as for any test binary.
#   kernel-suite.sh NODE_SUITE_BINARY [TEST...]
# Settings: GUEST_KERNEL='ARGUMENT...' for the kernel; GUEST_LIMIT=SECONDS.
. "$(dirname "$0")/lib.sh"

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
churn=10 orders=4 random=60
[[ -z ${FULL:-} ]] || churn=1000 orders=48 random=300
cat >"$stage/run" <<END
#!/bin/bash
cd /tmp
# Every page of the shared folder is a question to the host.
cp -r $stage bin
export ANTREA_BIN=/tmp/bin ANTREA_CNI_PLUGINS=/tmp/bin/plugins SSL_CERT_FILE=$stage/ca.pem RUST_BACKTRACE=0
# One processor, and each of a program's pages comes by a system call of the host: the same tests, with smaller numbers
# where they repeat.
export ANTREA_TEST_DATAPATH=system ANTREA_TEST_CHURN=$churn ANTREA_TEST_ORDERS=$orders ANTREA_TEST_RANDOM_SECONDS=$random
exec bin/node-suite --nocapture --include-ignored --test-threads=1 "\$@"
END
chmod +x "$stage/run"
"$REPO/hack/guest.sh" -t "${GUEST_LIMIT:-3600}" -m 2000 -a "${GUEST_KERNEL:-}" -d "$stage" -- ./run "$@"
