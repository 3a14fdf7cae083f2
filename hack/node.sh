# shellcheck shell=bash
# One node: namespaces, containerd, kubelet and kube-proxy. Sourced by cluster.sh; needs lib.sh,
# pki.sh and underlay.sh.

write_containerd_config() {
	cat >"$1/etc/containerd/config.toml" <<-'END'
		version = 2
		disabled_plugins = [
		  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
		  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
		]
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "docker.io/antrea/pause:dev"
		  # Without CAP_SYS_RESOURCE nobody may lower an OOM score, and runc fails if it has to.
		  restrict_oom_score_adj = true
		[plugins."io.containerd.grpc.v1.cri".cni]
		  bin_dir = "/opt/cni/bin"
		  conf_dir = "/etc/cni/net.d"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		  runtime_type = "io.containerd.runc.v2"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		  SystemdCgroup = false
	END
}

write_kubelet_config() {
	local root=$1 node=$2
	cat >"$root/etc/kubernetes/kubelet.yaml" <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		address: $(node_ip "$node")
		authentication:
		  anonymous: {enabled: false}
		  webhook: {enabled: true}
		  x509: {clientCAFile: /etc/kubernetes/ca.crt}
		authorization: {mode: Webhook}
		tlsCertFile: /etc/kubernetes/kubelet.crt
		tlsPrivateKeyFile: /etc/kubernetes/kubelet.key
		containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
		cgroupDriver: cgroupfs
		cgroupRoot: /$CGROUP/$node
		failCgroupV1: false
		failSwapOn: false
		clusterDomain: cluster.local
		clusterDNS: [$CLUSTER_DNS]
		resolvConf: /etc/resolv.conf
		maxPods: 250
		# The disk is the host's: how full it is says nothing about the node. What Pods write of their own counts all the same.
		imageGCHighThresholdPercent: 100
		imageMaximumGCAge: 0s
		evictionHard:
		  memory.available: 64Mi
		  nodefs.available: 0%
		  nodefs.inodesFree: 0%
		  imagefs.available: 0%
		  imagefs.inodesFree: 0%
	END
}

proxy_config() {
	local node=$1
	cat <<-END
		apiVersion: kubeproxy.config.k8s.io/v1alpha1
		kind: KubeProxyConfiguration
		mode: $KUBE_PROXY_MODE
		hostnameOverride: $node
		clusterCIDR: $POD_CIDR
		bindAddress: 0.0.0.0
		metricsBindAddress: 127.0.0.1:10249
		clientConnection: {kubeconfig: /etc/kubernetes/kube-proxy.kubeconfig}
		# These are sysctls of the whole machine, which a namespace must not change.
		conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
	END
}

write_node_files() {
	local root=$1 node=$2
	mkdir -p "$root"/etc/{containerd,kubernetes}
	write_containerd_config "$root"
	write_kubelet_config "$root" "$node"
	cp "$PKI/ca.crt" "$root/etc/kubernetes/ca.crt"
	cp "$PKI/$node.crt" "$root/etc/kubernetes/kubelet.crt"
	cp "$PKI/$node.key" "$root/etc/kubernetes/kubelet.key"
	cp "$PKI/$node.kubeconfig" "$root/etc/kubernetes/kubelet.kubeconfig"
	cp "$PKI/kube-proxy.kubeconfig" "$root/etc/kubernetes/kube-proxy.kubeconfig"
}

# start_in_node NODE NAME COMMAND...
start_in_node() {
	local node=$1 name=$2
	shift 2
	start "$node/$name" nsenter --target "$(<"$STATE/pids/$node-anchor")" --net --mount --uts --root --wd -- \
		env -i PATH=/opt/kubernetes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root "$@"
}

start_anchor() {
	local node=$1 directory=$STATE/nodes/$1
	running "$node/anchor" && return
	mkdir -p "$directory/root"
	rm -f "$directory/root/.ready"
	start "$node/anchor" nsenter --net="/run/netns/$(node_netns "$node")" \
		unshare --mount --uts "$REPO/hack/node-init.sh" "$directory" "$node" "$BIN"
	wait_for 20 test -e "$directory/root/.ready" || {
		cat "$STATE/logs/$node-anchor.log" >&2
		die "$node: its namespaces did not come up"
	}
}

# load_image NODE NAME ARCHIVE ID: unless the node has it.
load_image() {
	local node=$1 name=$2 archive=$3 id=$4 mark
	mark=$STATE/nodes/$node/images/${name//\//_}
	[[ $(cat "$mark" 2>/dev/null) == "$id" ]] && return
	# Standard input is the only way in: the node does not see the cache.
	in_node "$node" ctr -n k8s.io images import - <"$archive" >/dev/null
	mkdir -p "${mark%/*}"
	echo "$id" >"$mark"
}

node_up() {
	local node=$1 directory=$STATE/nodes/$1
	node_pki "$node"
	node_link_up "$node"
	start_anchor "$node"
	cgroup_create "$CGROUP/$node"
	write_node_files "$directory/root" "$node"
	running "$node/containerd" || start_in_node "$node" containerd containerd
	wait_for 30 in_node "$node" ctr version || {
		must_run "$node/containerd"
		die "$node: containerd does not answer; its log is $STATE/logs/$node-containerd.log"
	}
}

# After the images are there: the kubelet needs the pause image for its first pod.
node_daemons_up() {
	local node=$1
	running "$node/kubelet" || start_in_node "$node" kubelet kubelet --config=/etc/kubernetes/kubelet.yaml \
		--kubeconfig=/etc/kubernetes/kubelet.kubeconfig --hostname-override="$node" --node-ip="$(node_ip "$node")"
	proxy_up "$node"
}

# Another mode starts from a clean table: kube-proxy does not remove what its other mode has left.
proxy_up() {
	local node=$1 file=$STATE/nodes/$1/root/etc/kubernetes/kube-proxy.yaml
	# Open vSwitch serves everybody, and what a kube-proxy has left would do so before it.
	if [[ $KUBE_PROXY_MODE == none ]]; then
		if running "$node/kube-proxy"; then
			stop "$node/kube-proxy"
			in_node "$node" /opt/kubernetes/kube-proxy --cleanup --config=/etc/kubernetes/kube-proxy.yaml \
				>/dev/null 2>&1 || true
		fi
		rm -f "$file"
		return
	fi
	if [[ $(cat "$file" 2>/dev/null) != "$(proxy_config "$node")" ]]; then
		if running "$node/kube-proxy"; then
			stop "$node/kube-proxy"
			in_node "$node" /opt/kubernetes/kube-proxy --cleanup --config=/etc/kubernetes/kube-proxy.yaml \
				>/dev/null 2>&1 || true
		fi
		proxy_config "$node" >"$file"
	fi
	running "$node/kube-proxy" ||
		start_in_node "$node" kube-proxy kube-proxy --config=/etc/kubernetes/kube-proxy.yaml
}

node_down() {
	local node=$1
	cgroup_kill "$CGROUP/$node"
	node_link_down "$node"
	cgroup_remove "$CGROUP/$node"
	rm -rf --one-file-system "$STATE/nodes/$node" "$STATE/pids/$node-"*
}
