#!/bin/bash
# Builds the Go programs that the local cluster and its tests need, from the Go module proxy, once
# per version, into the cache:
#   tools.sh kubernetes   etcd, API server, controller manager, scheduler, kubelet, proxy, kubectl
#   tools.sh agnhost      the server and client of the Kubernetes e2e tests
#   tools.sh e2e          e2e.test and ginkgo
#   tools.sh coredns      DNS of the local cluster
#   tools.sh ovs          Open vSwitch of Debian 13, for hosts whose own is too old
#   tools.sh sshd         OpenSSH's server, for uploads
#   tools.sh cni          cnitool, host-local, portmap, bandwidth, loopback, bridge
#   tools.sh dashboards   reads Grafana boards strictly, by Grafana's own types
#   tools.sh monitoring-crds  definitions of Prometheus's operator (only fetched)
#   tools.sh deny         cargo-deny, from crates.io
#   tools.sh fuzz         cargo-fuzz, from crates.io
# Prints the folder that holds them.
. "$(dirname "$0")/lib.sh"

programs=(etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl)

# go_build MODULE FILE ARGUMENT...: static, and at low priority, because it takes all cores.
go_build() {
	local module=$1 out=$2
	shift 2
	(cd "$REPO/tools/$module" && CGO_ENABLED=0 GOFLAGS=-buildvcs=false nice -n 10 go "${@//%out/$out}")
}

# once NAME FILE COMMAND...: runs COMMAND FILE.part unless FILE is there. The rename makes an interrupted build
# invisible; of several that want the same file one builds it.
once() {
	local name=$1 file=$2 lock
	shift 2
	[[ -e $file ]] && return
	mkdir -p "$(dirname "$file")"
	exec {lock}>"$file.lock"
	flock "$lock"
	if [[ ! -e $file ]]; then
		say "building $name (first time only)"
		"$@" "$file.part" >&2 {lock}>&-
		mv "$file.part" "$file"
	fi
	exec {lock}>&-
}

version_flags() {
	local package=k8s.io/component-base/version version=${KUBERNETES_VERSION#v}
	local major=${version%%.*} rest=${version#*.}
	echo "-s -w -X $package.gitVersion=$KUBERNETES_VERSION -X $package.gitMajor=$major -X $package.gitMinor=${rest%%.*}"
}

build_kubernetes() { go_build kubernetes "$1" build -o %out -trimpath -ldflags "$(version_flags)"; }
build_agnhost() { go_build kubernetes "$1" build -o %out -trimpath -ldflags '-s -w' k8s.io/kubernetes/test/images/agnhost; }
build_ginkgo() { go_build kubernetes "$1" build -o %out -trimpath -ldflags '-s -w' github.com/onsi/ginkgo/v2/ginkgo; }
build_e2e() { go_build kubernetes "$1" test -c -o %out -trimpath -ldflags "$(version_flags)" k8s.io/kubernetes/test/e2e; }
build_coredns() { go_build coredns "$1" build -o %out -trimpath -ldflags '-s -w'; }
build_dashboards() { go_build dashboards "$1" build -o %out -trimpath -ldflags '-s -w'; }
build_cni() { go_build cni "$2" build -o %out -trimpath -ldflags '-s -w' "github.com/containernetworking/$1"; }

kubernetes() {
	local bin program
	bin=$(kubernetes_bin)
	once "Kubernetes $KUBERNETES_VERSION, about 7 minutes" "$bin/kubernetes" build_kubernetes
	for program in "${programs[@]}"; do ln -sfn kubernetes "$bin/$program"; done
	echo "$bin"
}

agnhost() {
	once agnhost "$(kubernetes_bin)/agnhost" build_agnhost
	kubernetes_bin
}

e2e() {
	once ginkgo "$(kubernetes_bin)/ginkgo" build_ginkgo
	once "the Kubernetes e2e suite" "$(kubernetes_bin)/e2e.test" build_e2e
	kubernetes_bin
}

# What tests and VM run is what the images ship: Debian 13's Open vSwitch, wherever the host's own is older than
# OVS_MINIMUM. Its programs bring their loader and libraries, so that they run beside any C library.
build_ovs() {
	local to=$1 root=$1.root program library lib=/usr/lib/x86_64-linux-gnu
	rm -rf "$to" "$root"
	mkdir -p "$to"/{bin,lib,share}
	with_log "$CACHE/ovs.log" mmdebstrap --variant=extract --include=openvswitch-switch \
		--aptopt='Acquire::Languages "none"' "$DEBIAN" "$root"
	local loader=$root/usr/lib64/ld-linux-x86-64.so.2
	local path=$root$lib:$root/usr/lib
	cp "$(realpath "$loader")" "$to/lib/ld.so"
	for program in bin/ovs-{appctl,dpctl,ofctl,vsctl} bin/ovsdb-{client,tool} sbin/ovsdb-server lib/openvswitch-switch/ovs-vswitchd; do
		for library in $("$loader" --library-path "$path" --list "$root/usr/$program" | grep -oE "${root}[^ ]+"); do
			cp -n "$(realpath "$library")" "$to/lib/${library##*/}"
		done
		install -m 755 "$root/usr/$program" "$to/bin/"
		patchelf --set-interpreter "${to%.part}/lib/ld.so" --force-rpath --set-rpath "${to%.part}/lib" "$to/bin/${program##*/}"
	done
	cp "$root/usr/share/openvswitch/vswitch.ovsschema" "$to/share/"
	# The schema is read from where Debian has it, unless it is told where.
	mv "$to/bin/ovsdb-tool" "$to/lib/"
	printf '#!/bin/sh\nexec env OVS_PKGDATADIR=%q %q "$@"\n' "${to%.part}/share" "${to%.part}/lib/ovsdb-tool" >"$to/bin/ovsdb-tool"
	chmod +x "$to/bin/ovsdb-tool"
	rm -rf "$root"
}

ovs() {
	once "Open vSwitch of Debian $DEBIAN" "$CACHE/ovs/$DEBIAN" build_ovs
	echo "$CACHE/ovs/$DEBIAN/bin"
}

# A server for uploads, beside the system: installed, it would be started. Its helpers are those of this Debian.
build_sshd() {
	local to=$1 debs=$1.debs package
	rm -rf "$to" "$debs"
	mkdir -p "$to" "$debs"
	(cd "$debs" && with_log "$CACHE/sshd.log" apt-get -o APT::Sandbox::User=root download openssh-server libwrap0)
	for package in "$debs"/*.deb; do dpkg-deb -x "$package" "$to"; done
	rm -rf "$debs"
}

sshd() {
	once "OpenSSH's server" "$CACHE/sshd" build_sshd
	echo "$CACHE/sshd"
}

cni() {
	local bin plugin
	bin=$(cni_bin)
	once cnitool "$bin/cnitool" build_cni cni/cnitool
	for plugin in ipam/host-local main/bridge main/loopback meta/bandwidth meta/portmap; do
		once "CNI plugin ${plugin#*/}" "$bin/${plugin#*/}" build_cni "plugins/plugins/$plugin"
	done
	echo "$bin"
}

coredns() {
	local bin
	bin=$CACHE/coredns/$(hash_files "$REPO"/tools/coredns/{go.mod,go.sum,main.go})
	once CoreDNS "$bin/coredns" build_coredns
	echo "$bin"
}

dashboards() {
	local bin
	bin=$CACHE/dashboards/$(hash_files "$REPO"/tools/dashboards/{go.mod,go.sum,main.go})
	once "the reader of Grafana boards" "$bin/dashboards" build_dashboards
	echo "$bin"
}

# The module is data to us: it is fetched, its checksum compared, and its folder told.
monitoring-crds() {
	local module=github.com/prometheus-operator/prometheus-operator@v0.85.0
	local sum=h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s= fetched
	fetched=$(cd / && go mod download -json "$module") || die "cannot fetch $module: $fetched"
	[[ $(jq -r .Sum <<<"$fetched") == "$sum" ]] || die "$module is not what it was"
	echo "$(jq -r .Dir <<<"$fetched")/example/prometheus-operator-crd"
}

# cargo_tool NAME VERSION
cargo_tool() {
	local name=$1 version=$2
	local root=$CACHE/$name-$version
	if [[ ! -x $root/bin/$name ]]; then
		say "building $name $version (first time only)"
		with_log "$CACHE/$name.log" nice -n 10 cargo install "$name" --version "$version" --locked \
			--root "$root" --target-dir "$CACHE/build/$name"
		rm -rf "$CACHE/build/$name"
	fi
	echo "$root/bin"
}

deny() { cargo_tool cargo-deny 0.20.2; }

fuzz() { cargo_tool cargo-fuzz 0.13.2; }

case ${1:-} in
kubernetes | agnhost | e2e | coredns | ovs | sshd | cni | dashboards | monitoring-crds | deny | fuzz) "$1" ;;
*) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
