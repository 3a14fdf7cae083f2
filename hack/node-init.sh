#!/bin/bash
# node-init.sh DIRECTORY NODE BIN: makes the calling process the first one of a node.
#
# Runs in fresh network, mount and UTS namespaces. The node gets a root of its own in
# DIRECTORY/root, so that what its daemons and pods write never lands on the host and goes away with
# the directory. Programs are the host's: /usr is an overlay over the host's. BIN holds the
# Kubernetes binaries.
set -euo pipefail
directory=$1 node=$2 bin=$3
root=$directory/root

make_tree() {
	mkdir -p "$root"/{dev,etc,home,mnt,opt/cni/bin,opt/kubernetes,proc,root,run,sys,tmp,usr,var/{cache,lib,log,tmp}}
	chmod 1777 "$root"/tmp "$root"/var/tmp
	ln -sfn /run "$root/var/run"
	ln -sfn /run/lock "$root/var/lock"
	local link
	for link in bin sbin lib lib32 lib64 libx32; do
		[[ ! -L /$link ]] || ln -sfn "usr/$link" "$root/$link"
	done
}

# The parts of /etc that programs look into, none of the host's secrets.
make_etc() {
	local part
	for part in alternatives ca-certificates ca-certificates.conf debian_version ethertypes group gshadow \
		host.conf iproute2 ld.so.cache ld.so.conf ld.so.conf.d modprobe.d nsswitch.conf os-release passwd \
		protocols rpc services ssl/certs ssl/openssl.cnf; do
		[[ -e /etc/$part ]] || continue
		mkdir -p "$(dirname "$root/etc/$part")"
		cp -a "/etc/$part" "$(dirname "$root/etc/$part")/"
	done
	echo "$node" >"$root/etc/hostname"
	printf '127.0.0.1 localhost\n::1 localhost\n%s %s\n' "$(hostname_address)" "$node" >"$root/etc/hosts"
	# A resolver on the host's loopback address cannot be reached from here.
	grep -vE '^nameserver (127\.|::1)' /etc/resolv.conf >"$root/etc/resolv.conf" || true
	[[ -s $root/etc/machine-id ]] || tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
}

hostname_address() { ip -4 -o addr show dev eth0 | awk '{ sub("/.*", "", $4); print $4 }'; }

mount_all() {
	mount --make-rprivate /
	# pivot_root wants a mount point.
	mount --bind "$root" "$root"
	mkdir -p "$directory"/usr/{upper,work}
	mount -t overlay overlay -o "lowerdir=/usr,upperdir=$directory/usr/upper,workdir=$directory/usr/work" "$root/usr"
	mount --rbind /dev "$root/dev"
	mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
	# A new sysfs shows the links of the network namespace that mounts it.
	mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
	mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
	mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs "$root/run"
	mkdir -p "$root/run/lock"
	mount --bind "$bin" "$root/opt/kubernetes"
	mount -o remount,bind,ro "$root/opt/kubernetes"
}

# The kubelet wants six sysctls that are the whole machine's, not the namespace's. It reads before it
# writes: where it finds what it wants, it leaves the host alone.
pin_sysctls() {
	local name value
	while read -r name value; do
		mkdir -p "$directory/sysctl"
		echo "$value" >"$directory/sysctl/$value"
		[[ ! -e $root/proc/sys/$name ]] || mount --bind "$directory/sysctl/$value" "$root/proc/sys/$name"
	done <<-END
		vm/overcommit_memory 1
		vm/panic_on_oom 0
		kernel/panic 10
		kernel/panic_on_oops 1
		kernel/keys/root_maxkeys 1000000
		kernel/keys/root_maxbytes 25000000
	END
}

rm -f "$root/.ready"
hostname "$node"
make_tree
make_etc
mount_all
pin_sysctls
cd "$root"
mkdir -p .host
pivot_root . .host
umount -l /.host
rmdir /.host
# Mounts of the kubelet have to reach pods and back.
mount --make-rshared /
touch /.ready
exec -a "antrea-$node" sleep infinity
