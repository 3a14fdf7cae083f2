//! What policy sends up: packets whose senders are told that they are rejected, and those that are written to the log.

use antrea_flows::Judged;
use openflow::PacketIn2;

use super::audit::DecisionLog;
use crate::dataplane::{Dataplane, Subscriber};

/// Answers and logs, for ever. What is not answered is dropped all the same.
pub async fn follow(dataplane: &Dataplane, log: &DecisionLog) {
    let mut packets = dataplane.subscribe(Subscriber::Policy);
    while let Some(packet) = packets.recv().await {
        let Some(judged) = antrea_flows::judged(&packet) else { continue };
        if judged.is_refused {
            answer(dataplane, judged, &packet).await;
        }
        if judged.is_logged {
            log.take(judged, packet);
        }
    }
}

async fn answer(dataplane: &Dataplane, judged: Judged, packet: &PacketIn2) {
    let make = |by, to| antrea_packet::refuse(&packet.packet, by, to);
    let Some(answer) = antrea_flows::refusal(dataplane.network(), judged.source, make) else { return };
    if let Err(error) = dataplane.session().packet_out(answer).await {
        tracing::debug!(%error, "a sender is not told that its packet is rejected");
    }
}
