#!/bin/bash
# collect DIRECTORY FILE...: copies each program, file or glob, with the shared libraries that it
# loads, to the same place below DIRECTORY.
set -euo pipefail
target=$1
shift

# The layout of a merged /usr, whatever path a file was asked for by.
mkdir -p "$target"/usr/{bin,sbin,lib,lib64}
for link in bin sbin lib lib64; do ln -sfn "usr/$link" "$target/$link"; done

canonical() { echo "$(realpath "$(dirname "$1")")/$(basename "$1")"; }

copy() {
	local file
	file=$(canonical "$1")
	[[ -e $target$file || -L $target$file ]] && return
	mkdir -p "$target$(dirname "$file")"
	cp -a "$file" "$target$file"
	if [[ -L $file ]]; then
		copy "$(canonical "$(dirname "$file")/$(readlink "$file")")"
	fi
}

libraries() { ldd "$1" 2>/dev/null | grep -oE '/[^ ]+' || true; }

for name; do
	if [[ $name == /* ]]; then
		# A glob may match several files, and must match one.
		mapfile -t files < <(compgen -G "$name")
	else
		mapfile -t files < <(command -v "$name")
	fi
	((${#files[@]})) || { echo "collect: $name: not found" >&2; exit 1; }
	for file in "${files[@]}"; do
		copy "$file"
		while read -r library; do copy "$library"; done < <(libraries "$(realpath "$file")")
	done
done

# glibc loads these by name at run time.
for library in /lib/*-linux-gnu/libnss_{dns,files}.so.2 /lib/*-linux-gnu/libresolv.so.2; do
	[[ ! -e $library ]] || copy "$library"
done
