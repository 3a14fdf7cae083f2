//! The control socket of a real ovs-vswitchd.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop")]

mod common;

use common::start;
use ovs::ctl::{CtlError, call};

#[tokio::test]
async fn commands_are_answered_or_refused() {
    let mut fixture = start(true);
    let dir = fixture.ovs.dir().to_owned();
    assert!(call(&dir, "version", &[]).await.unwrap().contains("ovs-vswitchd"));
    let refused = call(&dir, "no/such-command", &[]).await.unwrap_err();
    assert!(
        matches!(&refused, CtlError::Refused { message, .. } if message.contains("no/such-command")),
        "{refused}"
    );

    fixture.ovs.kill_vswitchd().unwrap();
    let away = call(&dir, "version", &[]).await.unwrap_err();
    assert!(matches!(away, CtlError::Io { .. }), "{away}");
    std::fs::remove_file(dir.join("ovs-vswitchd.pid")).unwrap();
    let unknown = call(&dir, "version", &[]).await.unwrap_err();
    assert!(matches!(unknown, CtlError::Pid { .. }), "{unknown}");
}
