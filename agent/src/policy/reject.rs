//! Tells senders that a rule rejected their packets.

use crate::dataplane::{Dataplane, Subscriber};

/// Answers what rules reject, for ever. What is not answered is dropped all the same.
pub async fn answer(dataplane: &Dataplane) {
    let mut packets = dataplane.subscribe(Subscriber::Policy);
    while let Some(packet) = packets.recv().await {
        let Some(refused) = antrea_flows::refused(&packet) else { continue };
        let network = dataplane.network();
        let make = |by, to| antrea_packet::refuse(&packet.packet, by, to);
        let Some(answer) = antrea_flows::refusal(network, refused, make) else { continue };
        if let Err(error) = dataplane.session().packet_out(answer).await {
            tracing::debug!(%error, "a sender is not told that its packet is rejected");
        }
    }
}
