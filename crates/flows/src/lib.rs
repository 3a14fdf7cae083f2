//! The OVS pipeline as data.
