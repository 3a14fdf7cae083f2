//! Whether the datapath goes by what the bridge says.
//!
//! The datapath goes on as it has done with packets that it knows until Open vSwitch has compared its flows with the
//! bridge's. It does so at once after a change, and yet it takes time, a second and more on a busy machine. Whatever must
//! not meet a datapath of before waits here.
//!
//! Open vSwitch tells of the end of a comparison and not of its beginning. One follows the other, so the second that ends
//! after a change began after it.

use std::path::PathBuf;
use std::time::Duration;

use antrea_flows::Network;
use openflow::{Flow, FlowCommand, FlowMod, Message};
use ovs::ctl;
use ovs::of::OfHandle;
use tokio::time::{Instant, MissedTickBehavior};

/// How soon Open vSwitch is given a reason for a comparison, and how soon again.
const HEAD_START: Duration = Duration::from_millis(1);
const AGAIN: Duration = Duration::from_millis(10);

/// In which it begins and ends a comparison by itself, where it cannot be asked: it begins one every 500 ms.
const UNASKED: Duration = Duration::from_millis(1200);

/// Asks Open vSwitch; clones ask the same one.
#[derive(Clone, Debug)]
pub struct Settled {
    session: OfHandle,
    /// Where it takes commands.
    run_dir: PathBuf,
    /// A flow that is always there. Written again as it is, it is a reason to compare.
    reason: Option<Flow>,
}

impl Settled {
    /// Of the bridge of `session` with this pipeline.
    pub fn new(session: OfHandle, run_dir: PathBuf, network: &Network) -> Self {
        Self { session, run_dir, reason: antrea_flows::base(network).into_iter().next() }
    }

    /// Waits until the datapath goes by all changes that the bridge has taken.
    pub async fn wait(&self) {
        for _ in 0..2 {
            if let Err(error) = self.comparison().await {
                // As where a foreign bridge has a datapath of another kind beside ours.
                tracing::debug!(%error, "Open vSwitch does not say when it has compared the datapath's flows");
                return tokio::time::sleep(UNASKED).await;
            }
        }
    }

    /// Waits for the end of a comparison.
    async fn comparison(&self) -> Result<(), String> {
        let reason = || {
            let flow = self.reason.clone().map(|flow| FlowMod::new(FlowCommand::ModifyStrict, flow));
            self.session.send_barriered(flow.map(Message::from).into_iter().collect())
        };
        let mut ended = std::pin::pin!(ctl::call(&self.run_dir, "revalidator/wait", &[]));
        let mut reasons = tokio::time::interval_at(Instant::now() + HEAD_START, AGAIN);
        reasons.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = &mut ended => return ended.map(drop).map_err(|error| error.to_string()),
                _ = reasons.tick() => reason().await.map_err(|error| error.to_string())?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;
    use crate::dataplane::fake::Rig;

    /// Open vSwitch's socket for commands.
    fn listen(folder: &Path) -> UnixListener {
        std::fs::write(folder.join("ovs-vswitchd.pid"), "42").unwrap();
        UnixListener::bind(folder.join("ovs-vswitchd.42.ctl")).unwrap()
    }

    async fn asked(listener: &UnixListener) -> UnixStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = [0; 256];
        let count = stream.read(&mut text).await.unwrap();
        let text = String::from_utf8_lossy(&text[..count]);
        assert!(text.contains("revalidator/wait"), "{text}");
        stream
    }

    async fn answer(mut stream: UnixStream, answer: &str) {
        stream.write_all(format!("{{\"id\": 0, {answer}}}").as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn two_comparisons_have_to_end_and_are_given_reasons() {
        let folder = tempfile::tempdir().unwrap();
        let listener = listen(folder.path());
        let rig = Rig::started().await;
        let reasons = Arc::new(AtomicUsize::new(0));
        let counted = reasons.clone();
        rig.switch.refuse(move |message| {
            let rewritten =
                matches!(message, Message::FlowMod(change) if change.command == FlowCommand::ModifyStrict);
            counted.fetch_add(usize::from(rewritten), Ordering::Relaxed);
            false
        });
        let settled = Settled::new(rig.session.clone(), folder.path().into(), rig.dataplane.network());
        let mut waiting = Box::pin(async move { settled.wait().await }).shared();
        let task = tokio::spawn(waiting.clone());
        for _ in 0..2 {
            let before = reasons.load(Ordering::Relaxed);
            let comparison = asked(&listener).await;
            while reasons.load(Ordering::Relaxed) < before + 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!((&mut waiting).now_or_never().is_none(), "a comparison has not ended");
            answer(comparison, "\"result\": \"\", \"error\": null").await;
        }
        task.await.unwrap();
    }

    #[tokio::test]
    async fn where_open_vswitch_cannot_say_time_has_to() {
        let folder = tempfile::tempdir().unwrap();
        let listener = listen(folder.path());
        let rig = Rig::started().await;
        let settled = Settled::new(rig.session.clone(), folder.path().into(), rig.dataplane.network());
        let begin = Instant::now();
        let refusing = async {
            answer(asked(&listener).await, "\"result\": null, \"error\": \"can't wait on multiple udpifs.\"")
                .await;
        };
        tokio::join!(settled.wait(), refusing);
        assert!(begin.elapsed() >= UNASKED);
    }
}
