//! What the fuzz targets check, apart from them so that the replay of their seeds needs neither nightly nor a
//! sanitizer.
//!
//! Each module is a target: `check` takes one input, panics where a promise is broken, and returns how much of
//! the input was meaningful. `fuzz/fuzz_targets` runs it on what the fuzzer makes, `tests/seeds.rs` on
//! `fuzz/corpus`.

pub mod cidr_subtract;
pub mod dns_answer;
pub mod openflow_decode;
pub mod openflow_text;
pub mod ovsdb_frames;
pub mod refused_packet;
pub mod traced_packet;
pub mod watch_events;
