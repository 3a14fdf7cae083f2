//! Typed custom resources of Antrea and of the operator.
