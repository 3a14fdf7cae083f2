//! Any text: reading does not panic, and what is read is written and read as the same value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openflow::{Flow, Group, Meter};

fuzz_target!(|text: &str| {
    if let Ok(flow) = text.parse::<Flow>() {
        assert_eq!(flow.to_string().parse(), Ok(flow));
    }
    if let Ok(group) = text.parse::<Group>() {
        assert_eq!(group.to_string().parse(), Ok(group));
    }
    if let Ok(meter) = text.parse::<Meter>() {
        assert_eq!(meter.to_string().parse(), Ok(meter));
    }
});
