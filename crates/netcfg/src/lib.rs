//! Linux network configuration: desired state and diff.
