#!/bin/bash
# Headlamp's plugin (ui/headlamp):
#   headlamp.sh build     builds the plugin, ui/headlamp/dist
#   headlamp.sh publish   the same, and puts it where the operator and the image take it from: config/ui/headlamp
#   headlamp.sh check     formatting, lints, types, unit tests and vectors, the build, and whether what is published is that
#   headlamp.sh browser [PART...]   the plugin in Chromium, by Headlamp's own loader, against a real API server; screenshots
#                         go to SCREENSHOTS (default: the cache). Parts: pages, traces, explain, keyboard, errors; default: all
# Needs Node 18 or later; what is missing is installed by apt. Packages are those of ui/headlamp/package-lock.json, fetched once into the cache (870 MB).
. "$(dirname "$0")/lib.sh"
cd "$REPO"
PLUGIN=$REPO/ui/headlamp
PUBLISHED=$REPO/config/ui/headlamp

# apt_install PROGRAM PACKAGE...: the packages, where the program is missing.
apt_install() {
	command -v "$1" >/dev/null && return
	need_root
	say "installing ${*:2}"
	with_log "$CACHE/apt.log" apt-get update -q
	with_log "$CACHE/apt.log" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${@:2}"
}

# modules: the packages, as ui/headlamp/node_modules (scripts of packages are not run), and src/crds.ts.
modules() {
	local folder lock
	apt_install npm nodejs npm
	node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 18 ? 1 : 0)' || die 'Node 18 or later is needed: https://nodejs.org'
	folder=$CACHE/headlamp/$(hash_files "$PLUGIN/package-lock.json")
	mkdir -p "$folder"
	exec {lock}>"$folder.lock"
	flock "$lock"
	if [[ ! -e $folder/complete ]]; then
		say "fetching the packages of Headlamp's plugin kit (first time only)"
		cp "$PLUGIN"/package{,-lock}.json "$folder/"
		(cd "$folder" && with_log "$CACHE/headlamp/npm.log" nice -n 10 npm ci --ignore-scripts --no-audit --no-fund {lock}>&-)
		touch "$folder/complete"
	fi
	exec {lock}>&-
	ln -sfn "$folder/node_modules" "$PLUGIN/node_modules"
	# Of the custom resources as they are now: a field that goes is an error of the type check.
	(cd "$PLUGIN" && npm run --silent types)
}

build() { (cd "$PLUGIN" && nice -n 10 npm run --silent build); }

check() {
	cd "$PLUGIN"
	npm run --silent lint
	npm run --silent tsc
	npm run --silent test
	build
	diff -r dist "$PUBLISHED" >/dev/null || die 'config/ui/headlamp is not what ui/headlamp builds: run hack/headlamp.sh publish'
}

publish() {
	build
	rm -rf "$PUBLISHED"
	mkdir -p "$PUBLISHED"
	cp "$PLUGIN"/dist/* "$PUBLISHED/"
}

# host_page: Headlamp's page, built once for these files into the cache; prints the folder. Takes a minute.
host_page() {
	local folder lock
	folder=$CACHE/headlamp/host-$(hash_files "$PLUGIN"/{package-lock.json,scripts/host.mjs,host/index.html,host/main.tsx})
	exec {lock}>"$folder.lock"
	flock "$lock"
	if [[ ! -d $folder ]]; then
		say "building Headlamp's page (first time only)"
		(cd "$PLUGIN" && nice -n 10 node scripts/host.mjs "$folder.part" >&2 {lock}>&-)
		mv "$folder.part" "$folder"
	fi
	exec {lock}>&-
	echo "$folder"
}

browser() {
	local page
	need_root
	# Debian's: packages of npm fetch none.
	apt_install chromium chromium fonts-dejavu-core
	build
	page=$(host_page)
	hack/tools.sh kubernetes >/dev/null
	# A network of its own: Chromium gives up what it is loading when a link comes or goes on the host.
	exec unshare --net hack/headlamp.sh pages "$page" "$@"
}

# pages FOLDER [PART...]: what `browser` does in its network; FOLDER is Headlamp's page.
pages() {
	local shots=${SCREENSHOTS:-$CACHE/headlamp/screenshots} folder=$1
	shift
	ip link set lo up
	. hack/apiserver.sh
	start_apiserver
	say "Headlamp's plugin in Chromium: ${*:-every part}; screenshots in $shots"
	echo "$token" >"$work/token"
	(cd "$PLUGIN" && node test/browser.mjs "https://127.0.0.1:$port" "$work/token" "$folder" "$shots" "$@")
}

case ${1:-} in
build | publish | check | browser)
	modules
	"$@"
	;;
pages) pages "${@:2}" ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
