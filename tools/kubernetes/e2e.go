//go:build e2e

package main

// Keeps the end-to-end suite's own dependencies in go.mod: `go test -c k8s.io/kubernetes/test/e2e`.
import _ "k8s.io/kubernetes/test/e2e"
