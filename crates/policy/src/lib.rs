//! The NetworkPolicy engine.
pub mod cidr;
pub mod draft;
pub mod error;
pub mod k8s;
pub mod labels;
pub mod model;
pub mod ports;
pub mod translate;
