#!/bin/bash
# Builds the container images and writes each as an archive that containerd can import:
#   images.sh project   antrea-agent, antrea-controller, antrea-operator
#   images.sh ui        antrea-ui, with the plugins for user interfaces
#   images.sh test      pause, agnhost, coredns, toolbox
#   images.sh oci FOLDER VERSION  the first four as OCI archives that depend on nothing but what is in them
#   images.sh base      only makes the Debian that the others start from
# Prints one line per image: NAME ARCHIVE ID. Set BASE=debian:trixie-slim to start from a
# registry's image instead of one made by mmdebstrap, ANTREA_RELEASE=FOLDER to take binaries that are there.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

IMAGES=$CACHE/images

# What buildah writes outside of its storage, whatever it is told: a lock, and where it has seen layers. Where it was
# not there before, it goes again; a host that uses buildah itself keeps it.
STRAYS=()
for file in /etc/cni/net.d/cni.lock /var/lib/containers/cache/blob-info-cache-v1.boltdb; do
	for stray in "$file" "${file%/*}" "${file%/*/*}"; do
		[[ -e $stray ]] || STRAYS+=("$stray")
	done
done

remove_strays() {
	local stray
	for stray in "${STRAYS[@]}"; do
		if [[ -d $stray ]]; then rmdir --ignore-fail-on-non-empty "$stray"; else rm -f "$stray"; fi
	done
}
trap remove_strays EXIT

# chroot isolation needs neither a runtime nor control groups, so that it works inside containers.
buildah() {
	command buildah --root "$CACHE/containers/storage" --runroot "$CACHE/containers/run" \
		--storage-driver overlay "$@"
}

base_image() {
	if [[ -n ${BASE:-} ]]; then
		echo "$BASE"
		return
	fi
	local name=localhost/antrea/base:$DEBIAN
	if ! buildah images -q "$name" >/dev/null 2>&1; then
		local context=$IMAGES/context/base
		mkdir -p "$context"
		say 'making the base image with mmdebstrap (first time only, about a minute)'
		with_log "$IMAGES/base.log" mmdebstrap --variant=minbase --aptopt='Acquire::Languages "none"' \
			--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
			--dpkgopt='path-exclude=/usr/share/locale/*' "$DEBIAN" "$context/base.tar.part"
		mv "$context/base.tar.part" "$context/base.tar"
		with_log "$IMAGES/base.log" buildah bud --isolation chroot -t "$name" \
			-f "$REPO/build/Containerfile.base" "$context"
		rm -rf "$context"
	fi
	echo "$name"
}

# context NAME FILE...: an empty build context that holds the files.
context() {
	local directory=$IMAGES/context/$1
	shift
	rm -rf "$directory"
	mkdir -p "$directory"
	(($# == 0)) || cp -a "$@" "$directory/"
	echo "$directory"
}

# image SHORT NAME CONTEXT: builds Containerfile.SHORT, and exports it if it differs from the last.
image() {
	local short=$1 name=$2 directory=$3 base id archive=$IMAGES/$1.tar
	# The scratch images take no base; do not make one for them.
	local arguments=()
	if grep -q '^ARG BASE' "$REPO/build/Containerfile.$short"; then
		base=$(base_image)
		arguments=(--build-arg "BASE=$base")
	fi
	with_log "$IMAGES/$short.log" buildah bud --layers --isolation chroot --timestamp 0 \
		"${arguments[@]}" --iidfile "$IMAGES/$short.iid" -t "$name" \
		-f "$REPO/build/Containerfile.$short" "$directory"
	id=$(<"$IMAGES/$short.iid")
	if [[ $(cat "$archive.id" 2>/dev/null) != "$id $name" ]]; then
		rm -f "$archive" "$archive.id" "$archive.part"
		with_log "$IMAGES/$short.log" buildah push -q "$id" "docker-archive:$archive.part:$name"
		mv "$archive.part" "$archive"
		echo "$id $name" >"$archive.id"
		note "$name, $(($(stat -c %s "$archive") / 1000000)) MB"
	fi
	rm -rf "$directory"
	echo "$name $archive ${id#sha256:}"
}

# What agnhost answers TLS with, under the name that it looks for. Nobody verifies it.
agnhost_certificate() {
	local folder=$IMAGES/porter
	if [[ ! -e $folder/localhost.crt ]]; then
		mkdir -p "$folder"
		openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 36500 \
			-keyout "$folder/localhost.key" -out "$folder/localhost.crt.part" 2>/dev/null
		mv "$folder/localhost.crt.part" "$folder/localhost.crt"
	fi
	echo "$folder"
}

test_images() {
	local pause agnhost certificate coredns
	say 'building the test images'
	pause=$(context pause)
	musl-gcc -static -Os -s -Wall -Wextra -o "$pause/pause" "$REPO/build/pause.c"
	image pause docker.io/antrea/pause:dev "$pause"
	agnhost=$("$REPO/hack/tools.sh" agnhost)/agnhost
	certificate=$(agnhost_certificate)
	image agnhost registry.k8s.io/e2e-test-images/agnhost:2.56 \
		"$(context agnhost "$agnhost" "$certificate"/localhost.{crt,key})"
	coredns=$("$REPO/hack/tools.sh" coredns)/coredns
	image coredns docker.io/antrea/coredns:dev "$(context coredns "$coredns")"
	image toolbox docker.io/antrea/toolbox:dev "$(context toolbox)"
}

project_images() {
	local release tag agent
	release=$(project_binaries)
	say 'building the images'
	tag=$(image_tag "$release")
	agent=$(context agent "$REPO"/build/{agent-root.sh,start_ovs,install_cni,load_modules} "$release"/antrea-{agent,cni} "$release/antctl")
	mkdir "$agent/cni-plugins"
	cp "$(cni_bin)"/{host-local,portmap,bandwidth,loopback} "$agent/cni-plugins/"
	image agent "docker.io/antrea/antrea-agent:$tag" "$agent"
	image controller "docker.io/antrea/antrea-controller:$tag" \
		"$(context controller "$release/antrea-controller" "$release/antctl" /etc/ssl/certs/ca-certificates.crt)"
	image operator "docker.io/antrea/antrea-operator:$tag" "$(context operator "$release/antrea-operator")"
}

# The plugins alone: what changes in them rolls nothing out.
ui_image() {
	local release tag
	release=$(project_binaries)
	tag=v$(workspace_version)-dev-$(hash_files "$release/antrea-octant-plugin" "$REPO/build/Containerfile.ui" "$REPO"/config/ui/headlamp/*)
	image ui "docker.io/antrea/antrea-ui:$tag" "$(context ui "$REPO/config/ui/headlamp" "$release/antrea-octant-plugin")"
}

# oci_images FOLDER VERSION
oci_images() {
	local name id layout
	{ project_images; ui_image; } | while read -r name _ id; do
		layout=$(mktemp -d)
		with_log "$IMAGES/oci.log" buildah push -q "$id" "oci:$layout/image:v$2"
		tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar -C "$layout/image" \
			-cf "$1/$(basename "${name%:*}")-$2-amd64.tar" .
		rm -rf "$layout"
	done
}

workspace_version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$REPO/Cargo.toml"; }

# The workspace's version, and a hash of all that goes into the images, the base image with it: whatever changes has a
# new tag, and is rolled out as any upgrade is.
image_tag() {
	local release=$1 version base
	base=$(buildah inspect --type image --format '{{.FromImageID}}' "$(base_image)")
	version=$(workspace_version)
	echo "v$version-dev-$(hash_files <(echo "$base") "$release"/antrea-{agent,cni,controller,operator} "$release/antctl" \
		"$REPO"/build/{Containerfile.*,agent-root.sh,start_ovs,install_cni,load_modules} "$REPO/tools/cni/go.mod")"
}

[[ ${BASH_SOURCE[0]} == "$0" ]] || return 0
case ${1:-} in
project | test) "${1}_images" ;;
ui) ui_image ;;
oci) oci_images "$2" "$3" ;;
base) base_image ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
