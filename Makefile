# `make up` gives a two-node Kubernetes with this project as its network, `make down` takes it away.
# What the targets do is in hack/; settings are listed at the top of hack/cluster.sh.

.PHONY: help up down status smoke kubeconfig logs shell-node1 shell-node2 images load dashboards test test-all bench check deny fuzz e2e-tools release

help: ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

up: ## build what is missing, start the cluster, install, try a request between the nodes
	@hack/cluster.sh up

down: ## end the cluster; leaves nothing behind but the cache
	@hack/cluster.sh down

status: ## nodes, pods, and daemons that ended
	@hack/cluster.sh status

smoke: ## one HTTP request between pods on two nodes
	@hack/cluster.sh smoke

kubeconfig: ## print the kubeconfig's path: export KUBECONFIG=$$(make -s kubeconfig)
	@hack/cluster.sh kubeconfig

logs: ## follow the logs of the cluster's daemons
	@hack/cluster.sh logs

shell-node1 shell-node2: ## a shell in a node's namespaces
	@hack/cluster.sh exec $(@:shell-%=%)

images: ## build the container images that are shipped and print their names, archives and ids
	@ANTREA_PROFILE=shipped hack/images.sh project

load: ## build the images anew and bring them to the running nodes
	@hack/cluster.sh load

dashboards: ## draw every Grafana board from a Prometheus that scrapes the running cluster
	@hack/dashboards.sh

e2e-tools: ## build e2e.test and ginkgo into the cache and print their folder
	@hack/tools.sh e2e

check: ## what CI checks before it tests: formatting, lints, boards and alerts
	@hack/test.sh check

release: ## all that a release consists of, in dist/VERSION: make release VERSION=x
	@hack/release.sh $(VERSION)

deny: ## licences, sources and bans of dependencies (builds cargo-deny the first time)
	@"$$(hack/tools.sh deny)/cargo-deny" --all-features check bans licenses sources

fuzz: ## each fuzz target for a minute (needs a nightly Rust)
	@hack/fuzz.sh

test: ## all tests, in less than an hour; a table of stages and times at the end
	@hack/test.sh

test-all: ## the same at full length, and what takes longer: every order, kernel datapath, fuzzing, measurements
	@FULL=1 hack/test.sh

bench: ## all measurements
	@hack/bench.sh
