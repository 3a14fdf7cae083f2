# shellcheck shell=bash
# The cluster's certificates and kubeconfigs. Sourced by cluster.sh; needs lib.sh.
#
# Three authorities, because each vouches for something else: "ca" for users, nodes and the API
# server, "etcd" for the only client that etcd has, "front-proxy" for the API server when it speaks
# to aggregated API servers in the name of a user.

PKI=$STATE/pki

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

# authority NAME
authority() {
	[[ -s $PKI/$1.crt ]] && return
	new_key "$PKI/$1.key"
	openssl req -x509 -new -key "$PKI/$1.key" -subj "/CN=$1" -days 3650 -out "$PKI/$1.crt" \
		-addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
}

# certificate NAME AUTHORITY SUBJECT [ALTERNATIVE-NAMES]
certificate() {
	local name=$1 authority=$2 subject=$3 names=${4:-}
	[[ -s $PKI/$name.crt ]] && return
	new_key "$PKI/$name.key"
	openssl req -new -key "$PKI/$name.key" -subj "$subject" -out "$PKI/$name.csr"
	openssl x509 -req -in "$PKI/$name.csr" -CA "$PKI/$authority.crt" -CAkey "$PKI/$authority.key" \
		-CAcreateserial -days 3650 -out "$PKI/$name.part" -extfile <(
			echo 'keyUsage=critical,digitalSignature,keyEncipherment'
			echo 'extendedKeyUsage=serverAuth,clientAuth'
			[[ -z $names ]] || echo "subjectAltName=$names"
		) 2>/dev/null
	mv "$PKI/$name.part" "$PKI/$name.crt"
}

# kubeconfig NAME FILE: for the holder of certificate NAME. Everything inline: the file can be
# copied to another machine or mounted into a node as it is.
kubeconfig() {
	local name=$1 file=$2
	cat >"$file.part" <<-YAML
		apiVersion: v1
		kind: Config
		clusters:
		- name: antrea
		  cluster:
		    server: $API_SERVER
		    certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")
		users:
		- name: $name
		  user:
		    client-certificate-data: $(base64 -w0 "$PKI/$name.crt")
		    client-key-data: $(base64 -w0 "$PKI/$name.key")
		contexts:
		- name: antrea
		  context: {cluster: antrea, user: $name}
		current-context: antrea
	YAML
	mv "$file.part" "$file"
}

make_pki() {
	[[ -s $KUBECONFIG_PATH ]] && return
	mkdir -p "$PKI"
	chmod 700 "$PKI"
	authority ca
	authority etcd
	authority front-proxy
	certificate etcd-server etcd /CN=etcd "IP:$HOST_IP"
	certificate etcd-client etcd /CN=kube-apiserver
	certificate front-proxy-client front-proxy /CN=front-proxy-client
	certificate apiserver ca /CN=kube-apiserver "IP:$HOST_IP,IP:$KUBERNETES_SERVICE_IP,\
DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
	certificate apiserver-kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client
	certificate admin ca /O=system:masters/CN=admin
	local name
	for name in kube-controller-manager kube-scheduler kube-proxy; do
		certificate "$name" ca "/CN=system:$name"
		kubeconfig "$name" "$PKI/$name.kubeconfig"
	done
	[[ -s $PKI/service-account.key ]] || new_key "$PKI/service-account.key"
	openssl ec -in "$PKI/service-account.key" -pubout -out "$PKI/service-account.pub" 2>/dev/null
	# Last: its presence says that all of the above is there.
	(umask 077 && kubeconfig admin "$KUBECONFIG_PATH")
}

# node_pki NODE: one certificate for both sides of the kubelet: client of the API server and server.
node_pki() {
	certificate "$1" ca "/O=system:nodes/CN=system:node:$1" "IP:$(node_ip "$1"),DNS:$1"
	kubeconfig "$1" "$PKI/$1.kubeconfig"
}
