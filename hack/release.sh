#!/bin/bash
# Writes all that a release consists of into dist/VERSION:
#   release.sh VERSION     VERSION without a "v", as Cargo.toml has it
# antrea-operator.yaml, antreainstallation.yaml   manifests
# antrea-operator-VERSION.tgz                     Helm chart
# olm/                                            bundle, its Dockerfile, catalog
# images/*.tar                                    OCI archives for amd64
# antrea.cdx.json                                 bill of materials (CycloneDX)
# SHA256SUMS                                      of all of these
# What differs from one run to the next is a fault: `release.sh compare FOLDER FOLDER` looks for it. ANTREA_RELEASE=FOLDER
# takes binaries that are there; IMAGES=no leaves the archives out. There are no binaries for arm64: neither Rust's target
# nor a C compiler for it is part of the tool chain that deps.sh makes.
. "$(dirname "$0")/lib.sh"

usage() {
	sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

# pack FOLDER NAME ARCHIVE: a compressed archive that depends on the files' names and contents alone.
pack() {
	tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --format=ustar \
		-C "$1" -cf - "$2" | gzip -n -9 >"$3"
}

xtask() {
	if [[ -x ${ANTREA_RELEASE:-}/xtask ]]; then
		"$ANTREA_RELEASE/xtask" "$@"
	else
		(cd "$REPO" && cargo run -q --locked "${CI_BUILD[@]}" -p xtask -- "$@")
	fi
}

release() {
	local version=$1 dist=$REPO/dist/$1
	[[ $version == "$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$REPO/Cargo.toml")" ]] ||
		die "Cargo.toml has another version than $version: change it there, and run cargo xtask generate"
	rm -rf "$dist"
	mkdir -p "$dist/images"
	xtask generate --check
	cp "$REPO/config/antrea-operator.yaml" "$REPO/config/samples/antreainstallation.yaml" "$dist/"
	local chart
	chart=$(mktemp -d)
	cp -r "$REPO/config/chart" "$chart/antrea-operator"
	pack "$chart" antrea-operator "$dist/antrea-operator-$version.tgz"
	rm -rf "$chart"
	xtask bundle --version "$version" --out "$dist/olm"
	xtask lint-bundle "$dist/olm/bundle"
	xtask lint-bundle "$dist/olm/catalog"
	xtask sbom >"$dist/antrea.cdx.json"
	if [[ ${IMAGES:-yes} == yes ]]; then
		ANTREA_PROFILE=shipped "$REPO/hack/images.sh" oci "$dist/images" "$version"
	else
		rmdir "$dist/images"
	fi
	local sums
	sums=$(cd "$dist" && find . -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum)
	echo "$sums" >"$dist/SHA256SUMS"
	note "$dist"
}

case ${1:-} in
compare)
	(($# == 3)) || usage
	diff -r "$2" "$3"
	;;
[0-9]*) release "$1" ;;
*) usage ;;
esac
