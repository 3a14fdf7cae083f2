#!/bin/bash
# Installs what a fresh Debian 12 lacks: packages from apt, Go, the Rust target of the release binaries.
. "$(dirname "$0")/lib.sh"

# A program that tells whether the package is there, and the package.
packages=(
	buildah:buildah conntrack:conntrack containerd:containerd curl:curl ethtool:ethtool gcc:gcc git:git
	ip:iproute2 ipset:ipset iperf3:iperf3 iptables:iptables jq:jq make:make mmdebstrap:mmdebstrap
	musl-gcc:musl-tools nft:nftables nsenter:util-linux openssl:openssl patchelf:patchelf
	ping:iputils-ping ps:procps runc:runc sftp:openssh-client shellcheck:shellcheck socat:socat tcpdump:tcpdump
	bc:bc bison:bison flex:flex mksquashfs:squashfs-tools busybox:busybox-static xz:xz-utils promtool:prometheus
)

install() {
	need_root
	say "installing $*"
	# Our nodes have daemons of their own; none is to be started on the host.
	local policy=/usr/sbin/policy-rc.d
	if [[ ! -e $policy ]]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	fi
	with_log "$CACHE/apt.log" apt-get update -q
	with_log "$CACHE/apt.log" env DEBIAN_FRONTEND=noninteractive \
		apt-get install -q -y --no-install-recommends "$@"
}

install_packages() {
	local pair missing=()
	for pair in "${packages[@]}"; do
		command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
	done
	((${#missing[@]} == 0)) || install "${missing[@]}"
}

# Kubernetes needs Go 1.24; Debian 12 has 1.19. That one can fetch a later one as a Go module, whose
# checksum it verifies, but does not know yet that such a module has programs in it.
go_release=1.24.11

go_is_recent() {
	local have
	have=$(go env GOVERSION 2>/dev/null) || return 1
	[[ $(printf '%s\n' go1.24 "$have" | sort -V | head -n 1) == go1.24 ]] ||
		# Go 1.21 and later fetch what a module asks for by themselves.
		[[ $(go env GOTOOLCHAIN 2>/dev/null) == *auto ]]
}

ensure_go() {
	go_is_recent && return
	local go=go directory
	if ! command -v go >/dev/null; then
		go=/usr/lib/go-1.19/bin/go
		[[ -x $go ]] || install golang-1.19-go
	fi
	say "fetching Go $go_release"
	directory=$("$go" mod download -json "golang.org/toolchain@v0.0.1-go$go_release.linux-amd64" | jq -r .Dir)
	[[ -d $directory ]] || die "cannot fetch Go $go_release: install Go 1.24 or later from https://go.dev/dl"
	rm -rf "$GO_CACHE"
	mkdir -p "$(dirname "$GO_CACHE")"
	cp -a "$directory" "$GO_CACHE.part"
	chmod -R u+w "$GO_CACHE.part"
	chmod +x "$GO_CACHE.part"/bin/* "$GO_CACHE.part"/pkg/tool/*/*
	mv "$GO_CACHE.part" "$GO_CACHE"
}

# 3.1.3 and 3.2.0 mend a datapath flow that outlives what the pipeline says (NEWS: "dpif-netdev: Fix dpif_netdev_flow_put").
ovs_is_recent() {
	local have
	have=$(ovs-vswitchd --version 2>/dev/null | sed -n '1s/.* //p')
	[[ -n $have && $(printf '%s\n' "$OVS_MINIMUM" "$have" | sort -V | head -n 1) == "$OVS_MINIMUM" ]]
}

ensure_ovs() {
	local directory program
	ovs_is_recent && return
	need_root
	directory=$("$REPO/hack/tools.sh" ovs)
	for program in "$directory"/*; do ln -sfn "$program" "/usr/local/bin/${program##*/}"; done
	hash -r
	ovs_is_recent || die "an Open vSwitch older than $OVS_MINIMUM stands before /usr/local/bin in PATH"
}

check_rust() {
	command -v cargo >/dev/null || die 'Rust is needed: https://rustup.rs installs it, rust-toolchain.toml names the version'
	local target=x86_64-unknown-linux-musl
	[[ -d $(cd "$REPO" && rustc --print sysroot)/lib/rustlib/$target ]] && return
	say "installing the Rust target $target"
	(cd "$REPO" && rustup target add "$target" >&2)
}

install_packages
ensure_ovs
ensure_go
check_rust
