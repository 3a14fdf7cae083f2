#!/bin/bash
# agent-root.sh DIRECTORY: makes the root file system of the agent's image out of the Debian that
# this runs in: some programs, the shared libraries that they load, and busybox for the rest.
set -euo pipefail
target=$1

programs=(
	ovs-vswitchd ovsdb-server ovs-vsctl ovs-ofctl ovs-appctl ovs-dpctl ovsdb-client ovsdb-tool
	conntrack ip bridge sftp ssh tc ipset nft xtables-nft-multi xtables-legacy-multi kmod busybox
)
files=(
	/usr/lib/*-linux-gnu/xtables/lib{xt,ipt,ip6t}_*.so
	# glibc loads these by name at run time.
	/usr/lib/*-linux-gnu/{libnss_dns.so.2,libnss_files.so.2,libresolv.so.2}
	/usr/share/openvswitch/vswitch.ovsschema
	/etc/{protocols,services,os-release} /etc/ssl/certs/ca-certificates.crt
)

# The path as it is with the links of a merged /usr followed, but not the last link.
canonical() {
	local directory
	directory=$(realpath "$(dirname "$1")")
	echo "$directory/$(basename "$1")"
}

# copy FILE: to the same place below the target; a link together with what it points to.
copy() {
	local file to
	file=$(canonical "$1")
	[[ ! -e $target$file && ! -L $target$file ]] || return 0
	mkdir -p "$target$(dirname "$file")"
	cp -a "$file" "$target$file"
	if [[ -L $file ]]; then
		to=$(readlink "$file")
		[[ $to == /* ]] || to=$(dirname "$file")/$to
		copy "$to"
	fi
}

copy_with_libraries() {
	local library
	copy "$1"
	for library in $(ldd "$1" 2>/dev/null | grep -oE '/[^ ]+'); do copy "$library"; done
}

make_skeleton() {
	local link
	mkdir -p "$target"/usr/{bin,sbin,lib,lib64}
	for link in bin sbin lib lib64; do ln -s "usr/$link" "$target/$link"; done
	mkdir -p "$target"/{dev,etc/openvswitch,opt/cni,proc,root,run/lock,sys,tmp,var/log/openvswitch}
	chmod 1777 "$target/tmp"
	ln -s /run "$target/var/run"
	echo root:x:0:0:root:/root:/bin/sh >"$target/etc/passwd"
	echo root:x:0: >"$target/etc/group"
}

# Both variants under all of their names, because a node has its rules in one of them; plain
# "iptables" is nft's, as it is in Debian.
link_iptables() {
	local family action
	for family in iptables ip6tables; do
		for action in '' -save -restore; do
			ln -s xtables-nft-multi "$target/usr/sbin/$family$action"
			ln -s xtables-nft-multi "$target/usr/sbin/$family-nft$action"
			ln -s xtables-legacy-multi "$target/usr/sbin/$family-legacy$action"
		done
	done
}

link_busybox() {
	local applet
	for applet in $(busybox --list); do
		[[ -e $target/usr/sbin/$applet || -e $target/usr/bin/$applet ]] || ln -s busybox "$target/usr/bin/$applet"
	done
}

make_skeleton
for program in "${programs[@]}"; do copy_with_libraries "$(command -v "$program")"; done
for file in "${files[@]}"; do copy_with_libraries "$file"; done
link_iptables
ln -s ../bin/kmod "$target/usr/sbin/modprobe"
link_busybox
