# shellcheck shell=bash
# etcd, API server, controller manager and scheduler, as processes of the host on the underlay's
# address. Sourced by cluster.sh; needs lib.sh and pki.sh.

start_etcd() {
	running etcd && return
	# No fsync: the state is as short-lived as the cluster, and disks of CI hosts are slow.
	start etcd "$BIN/etcd" --name etcd --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn \
		--listen-client-urls "https://$HOST_IP:2379" --advertise-client-urls "https://$HOST_IP:2379" \
		--listen-peer-urls "https://$HOST_IP:2380" --initial-advertise-peer-urls "https://$HOST_IP:2380" \
		--initial-cluster "etcd=https://$HOST_IP:2380" \
		--client-cert-auth --trusted-ca-file "$PKI/etcd.crt" \
		--cert-file "$PKI/etcd-server.crt" --key-file "$PKI/etcd-server.key" \
		--peer-client-cert-auth --peer-trusted-ca-file "$PKI/etcd.crt" \
		--peer-cert-file "$PKI/etcd-server.crt" --peer-key-file "$PKI/etcd-server.key"
}

start_apiserver() {
	running kube-apiserver && return
	# shellcheck disable=SC2054
	local arguments=(
		--advertise-address="$HOST_IP" --bind-address="$HOST_IP" --secure-port=6443
		--allow-privileged=true --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction
		--client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key"
		--etcd-servers="https://$HOST_IP:2379" --etcd-cafile="$PKI/etcd.crt"
		--etcd-certfile="$PKI/etcd-client.crt" --etcd-keyfile="$PKI/etcd-client.key"
		--kubelet-certificate-authority="$PKI/ca.crt" --kubelet-preferred-address-types=InternalIP
		--kubelet-client-certificate="$PKI/apiserver-kubelet-client.crt"
		--kubelet-client-key="$PKI/apiserver-kubelet-client.key"
		--service-account-issuer=https://kubernetes.default.svc.cluster.local
		--service-account-key-file="$PKI/service-account.pub"
		--service-account-signing-key-file="$PKI/service-account.key"
		--service-cluster-ip-range="$SERVICE_CIDR"
		# No kube-proxy here: aggregated API servers and webhooks are reached at their endpoints.
		--enable-aggregator-routing=true
		--requestheader-client-ca-file="$PKI/front-proxy.crt" --requestheader-allowed-names=front-proxy-client
		--requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group
		--requestheader-username-headers=X-Remote-User
		--proxy-client-cert-file="$PKI/front-proxy-client.crt" --proxy-client-key-file="$PKI/front-proxy-client.key"
	)
	start kube-apiserver "$BIN/kube-apiserver" "${arguments[@]}"
}

start_controller_manager() {
	running kube-controller-manager && return
	local kubeconfig=$PKI/kube-controller-manager.kubeconfig
	start kube-controller-manager "$BIN/kube-controller-manager" --bind-address="$HOST_IP" --leader-elect=false \
		--kubeconfig="$kubeconfig" --authentication-kubeconfig="$kubeconfig" --authorization-kubeconfig="$kubeconfig" \
		--allocate-node-cidrs=true --cluster-cidr="$POD_CIDR" --service-cluster-ip-range="$SERVICE_CIDR" \
		--cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
		--root-ca-file="$PKI/ca.crt" --service-account-private-key-file="$PKI/service-account.key" \
		--use-service-account-credentials=true
}

start_scheduler() {
	running kube-scheduler && return
	local kubeconfig=$PKI/kube-scheduler.kubeconfig
	start kube-scheduler "$BIN/kube-scheduler" --bind-address="$HOST_IP" --leader-elect=false \
		--kubeconfig="$kubeconfig" --authentication-kubeconfig="$kubeconfig" --authorization-kubeconfig="$kubeconfig"
}

control_plane_up() {
	start_etcd
	start_apiserver
	wait_for 90 kubectl get --raw /readyz || {
		must_run etcd
		must_run kube-apiserver
		die "the API server is not ready after 90 s; its log is $STATE/logs/kube-apiserver.log"
	}
	# Both exit when they find the RBAC bootstrap unfinished, so only now.
	start_controller_manager
	start_scheduler
}
