#!/bin/bash
# Runs a command as root on a Linux kernel of its own, which has Open vSwitch's datapath, with the programs of Debian 13.
# The kernel is Debian's source built for User Mode Linux (ARCH=um): a process like any other, which needs neither
# hardware virtualization nor modules of the host, and runs programs natively. One processor; no network.
#   guest.sh [-t SECONDS] [-m MIB] [-d FOLDER] [-a 'KERNEL ARGUMENTS'] -- COMMAND [ARGUMENT...]
#   guest.sh -b        only makes kernel and root image (done on first use otherwise), each by guest.sh -k and -r FOLDER
# FOLDER (default: the current one) is there read-write at the same path, and is where the command starts; every other
# write is lost. stdout carries the command's stdout and stderr; its stdin is empty. The exit status is the command's, 124
# when the time is over, 125 when the guest ended without one.
. "$(dirname "$0")/lib.sh"

programs=openvswitch-switch,iproute2,iptables,nftables,ipset,ipvsadm,conntrack,iperf3,ethtool,tcpdump
programs+=,kmod,mount,procps,iputils-ping,netcat-openbsd,curl
# build_kernel FOLDER: makes FOLDER/linux of the source that this Debian has.
build_kernel() {
	local source work=$1/source line
	source=$(apt-cache depends --important linux-source | awk '$1 == "Depends:" { print $2; exit }')
	mkdir "$work"
	cd "$work"
	apt-get -qq download -o APT::Sandbox::User=root "$source"
	dpkg-deb -x "$source"_*.deb .
	tar -xf "usr/src/$source.tar.xz" --strip-components=1 \
		--exclude='*/sound/*/*.[ch]' --exclude='*/drivers/gpu/drm/*/*.[ch]' --exclude='*/Documentation/*.rst'
	# A symbol of old C libraries, exported to modules. Ours has none of either.
	sed -i '/EXPORT_SYMBOL_PROTO(__xmknod)/d' arch/um/os-Linux/user_syms.c
	# Octets of a program's floating point registers. Later processors have more than this kernel knows of (with AMX 11,008),
	# and the host takes all of them or none. Copies are on the kernel's stack: guest.config has a larger one.
	grep -q 'HOST_FP_SIZE, 2696' arch/x86/um/user-offsets.c || die 'this source has another size of floating point registers'
	sed -i 's/HOST_FP_SIZE, 2696/HOST_FP_SIZE, 16384/' arch/x86/um/user-offsets.c
	make ARCH=um KCONFIG_ALLCONFIG="$REPO/hack/guest.config" allnoconfig
	while IFS= read -r line; do
		[[ $line != CONFIG_* ]] || grep -qxF -- "$line" .config || die "this kernel takes no $line of hack/guest.config"
	done <"$REPO/hack/guest.config"
	make ARCH=um -j"$(nproc)" linux
	strip -o "$1/linux" linux
	cd "$1"
	rm -rf "$work"
}

# build_root FOLDER: makes FOLDER/root.sqfs.
build_root() {
	mmdebstrap --quiet --variant=essential --include="$programs" --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' "$DEBIAN" - |
		sqfstar -quiet -no-progress -comp lz4 "$1/root.sqfs"
}

limit=600 memory=768 folder=$PWD only_build=''
arguments=()
while getopts t:m:d:a:bk:r: option; do
	case $option in
		t) limit=$OPTARG ;;
		m) memory=$OPTARG ;;
		d) folder=$OPTARG ;;
		a) read -ra arguments <<<"$OPTARG" ;;
		b) only_build=1 ;;
		k)
			build_kernel "$OPTARG"
			exit
			;;
		r)
			build_root "$OPTARG"
			exit
			;;
		*) die 'guest.sh: its first lines tell the usage' ;;
	esac
done
shift $((OPTIND - 1))
folder=$(realpath -e "$folder")
[[ $only_build || $# -gt 0 ]] || die 'guest.sh: no command'

image=$CACHE/guest/$(cat - "$REPO/hack/guest.config" <<<"$DEBIAN $programs" | sha256sum | cut -c1-12)
mkdir -p "$CACHE/guest"
exec 9>"$CACHE/guest/lock"
flock 9
if [[ ! -d $image ]]; then
	say 'making the kernel and the root image that tests of the kernel datapath run in (first time only)'
	part=$(mktemp -d "$CACHE/guest/part.XXXXXX")
	trap 'rm -rf "$part"' EXIT
	with_log "$CACHE/guest/root.log" "$0" -r "$part" &
	root=$!
	with_log "$CACHE/guest/kernel.log" "$0" -k "$part"
	wait "$root"
	mv "$part" "$image"
fi
exec 9>&-
[[ ! $only_build ]] || exit 0

# What the guest sees first, and leaves its answers in.
control=$(mktemp -d "${TMPDIR:-/tmp}/antrea-guest.XXXXXX")
trap 'rm -rf "$control"' EXIT
mkdir "$control"/{bin,dev,lower,over,root}
cp "$(command -v busybox)" "$control/bin/busybox"
printf '%q ' exec "$@" >"$control/command"
cat >"$control/first" <<END
#!/bin/busybox sh
mount() { /bin/busybox mount "\$@"; }
mount -t devtmpfs dev /dev
mount -t squashfs -o ro /dev/ubda /lower
mount -t tmpfs -o size=90% over /over
/bin/busybox mkdir -p /over/up/control /over/work
mount -t overlay -o lowerdir=/lower,upperdir=/over/up,workdir=/over/work root /root
mount -t hostfs -o $control control /root/control
mount --move /dev /root/dev
exec /bin/busybox chroot /root /bin/bash /control/init
END
chmod +x "$control/first"
cat >"$control/init" <<END
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts /dev/shm /run/lock /run/netns
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
hostname guest
echo 127.0.0.1 localhost guest >/etc/hosts
ip link set lo up
mkdir -p $(printf %q "$folder")
mount -t hostfs -o $(printf %q "$folder") work $(printf %q "$folder")
cd $(printf %q "$folder") || exit
stty -F /dev/tty1 raw -echo
# One who writes to the terminal; programs write to a pipe, which they may open as often as they like.
mkfifo /run/out
cat /run/out >/dev/tty1 &
printer=\$!
touch /control/started
setsid -w bash /control/command >/run/out 2>&1 </dev/null
status=\$?
# Whatever the command left running; the printer goes on until there is nothing to print.
for pid in /proc/[0-9]*; do
	pid=\${pid#/proc/}
	((pid == 1 || pid == printer)) || kill -9 "\$pid" 2>/dev/null
done
wait
echo \$status >/control/status
/control/bin/busybox poweroff -f
END

began=$EPOCHREALTIME status=0
# All that it consists of ends with it: the kernel is one process, and each program in it one more.
setpriv --pdeathsig TERM timeout --foreground -k 5 "$limit" unshare --pid --fork --kill-child \
	"$image/linux" mem="${memory}M" root=/dev/root rootfstype=hostfs rootflags="$control" rw init=/first \
	ubd0r="$image/root.sqfs" con=null con0=null,fd:4 con1=null,fd:3 quiet panic=-1 "${arguments[@]}" \
	3> >(cat) 4>"$control/console" >"$control/early" 2>&1 </dev/null || status=$?
if [[ -e $control/started ]]; then
	awk -v a="$began" -v b="$(stat -c %.3Y "$control/started")" -v c="$EPOCHREALTIME" \
		'BEGIN { printf "guest: start %.1f s, command and stop %.1f s\n", b - a, c - b }' >&2
fi
[[ ! -s $control/status ]] || exit "$(<"$control/status")"
tail -n 40 "$control/early" "$control/console" >&2 || true
((status != 124 && status != 137)) || { echo "guest: time limit of $limit s reached" >&2; exit 124; }
echo 'guest: ended without a status' >&2
exit 125
