//! Kit for aggregated Kubernetes API servers.
