#!/bin/bash
# Installs what a fresh Debian 12 lacks: packages from apt, the Rust target of the release binaries.
. "$(dirname "$0")/lib.sh"

# A program that tells whether the package is there, and the package.
packages=(
	buildah:buildah conntrack:conntrack containerd:containerd curl:curl ethtool:ethtool gcc:gcc git:git
	ip:iproute2 ipset:ipset iperf3:iperf3 iptables:iptables jq:jq make:make mmdebstrap:mmdebstrap
	musl-gcc:musl-tools nft:nftables nsenter:util-linux openssl:openssl ovs-vswitchd:openvswitch-switch
	ping:iputils-ping ps:procps runc:runc socat:socat tcpdump:tcpdump
)

install_packages() {
	local pair missing=()
	for pair in "${packages[@]}"; do
		command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
	done
	((${#missing[@]})) || return 0
	need_root
	say "installing ${missing[*]}"
	# Our nodes have daemons of their own; none is to be started on the host.
	local policy=/usr/sbin/policy-rc.d
	if [[ ! -e $policy ]]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	fi
	with_log "$CACHE/apt.log" apt-get update -q
	with_log "$CACHE/apt.log" env DEBIAN_FRONTEND=noninteractive \
		apt-get install -q -y --no-install-recommends "${missing[@]}"
}

check_go() {
	local have
	have=$(go env GOVERSION 2>/dev/null) || die 'Go 1.24 or later is needed to build Kubernetes: https://go.dev/dl'
	[[ $(printf '%s\n' go1.24 "$have" | sort -V | head -n 1) == go1.24 || $(go env GOTOOLCHAIN) == auto ]] ||
		die "Kubernetes needs Go 1.24 or later, this is $have"
}

check_rust() {
	command -v cargo >/dev/null || die 'Rust is needed: https://rustup.rs installs it, rust-toolchain.toml names the version'
	local target=x86_64-unknown-linux-musl
	[[ -d $(cd "$REPO" && rustc --print sysroot)/lib/rustlib/$target ]] && return
	say "installing the Rust target $target"
	(cd "$REPO" && rustup target add "$target" >&2)
}

install_packages
check_go
check_rust
