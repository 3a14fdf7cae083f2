# shellcheck shell=bash
# Cluster DNS, as every real cluster has it: CoreDNS behind the Service kube-dns. Sourced by cluster.sh; needs lib.sh.

DNS_IMAGE=docker.io/antrea/coredns:dev

# There is no world outside whose names could be asked for, hence no forward.
dns_manifest() {
	cat <<-END
		apiVersion: v1
		kind: ServiceAccount
		metadata: {name: coredns, namespace: kube-system}
		---
		apiVersion: rbac.authorization.k8s.io/v1
		kind: ClusterRole
		metadata: {name: system:coredns}
		rules:
		- {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
		- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
		---
		apiVersion: rbac.authorization.k8s.io/v1
		kind: ClusterRoleBinding
		metadata: {name: system:coredns}
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns}
		subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]
		---
		apiVersion: v1
		kind: ConfigMap
		metadata: {name: coredns, namespace: kube-system}
		data:
		  Corefile: |
		    .:53 {
		        errors
		        health
		        ready
		        kubernetes cluster.local in-addr.arpa ip6.arpa
		        cache 30
		        loadbalance
		    }
		---
		apiVersion: apps/v1
		kind: Deployment
		metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}
		spec:
		  replicas: 1
		  selector: {matchLabels: {k8s-app: kube-dns}}
		  template:
		    metadata: {labels: {k8s-app: kube-dns}}
		    spec:
		      serviceAccountName: coredns
		      priorityClassName: system-cluster-critical
		      # What resolves names must not ask itself.
		      dnsPolicy: Default
		      terminationGracePeriodSeconds: 2
		      containers:
		      - name: coredns
		        image: $DNS_IMAGE
		        imagePullPolicy: Never
		        args: [-conf, /etc/coredns/Corefile]
		        ports: [{containerPort: 53, protocol: UDP, name: dns}, {containerPort: 53, name: dns-tcp}]
		        readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}
		        resources: {requests: {cpu: 10m, memory: 30Mi}}
		        securityContext:
		          allowPrivilegeEscalation: false
		          readOnlyRootFilesystem: true
		          capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
		        volumeMounts: [{name: config, mountPath: /etc/coredns, readOnly: true}]
		      volumes: [{name: config, configMap: {name: coredns}}]
		---
		apiVersion: v1
		kind: Service
		metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
		spec:
		  clusterIP: $CLUSTER_DNS
		  selector: {k8s-app: kube-dns}
		  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
	END
}

dns_up() {
	dns_manifest | kubectl apply --server-side --force-conflicts -f - >/dev/null
	kubectl -n kube-system rollout status deployment/coredns --timeout=90s >/dev/null || {
		kubectl -n kube-system describe pods -l k8s-app=kube-dns | tail -n 20 >&2
		die 'cluster DNS is not Ready'
	}
}
