//! Asks DNS again for what pods were told, before its time has passed: applications keep addresses for longer.
//!
//! Asked is the server that told the pod, from the node's own network. What it says counts as if that pod had asked; nobody
//! waits for it.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use antrea_enforce::dns::{Again, Receiver};
use antrea_packet::{DnsAnswer, DnsQuestion, dns_query, dns_reply};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use super::DnsSettings;
use crate::metrics::DnsMetrics;
use crate::policy::handle::{PolicyHandle, Request};

/// How often it is looked what is to be asked.
const EVERY: Duration = Duration::from_millis(250);

/// How long a reply is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

const PORT: u16 = 53;
const LONGEST: usize = 4096;

impl PolicyHandle {
    /// Asks again what has to be, for ever.
    pub async fn refresh_dns(&self, settings: &DnsSettings, metrics: &DnsMetrics) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut under_way, mut asking) = (Vec::<Again>::new(), FuturesUnordered::new());
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                // What was answered makes room for the next one at once.
                Some(again) = asking.next() => {
                    if let Some(at) = under_way.iter().position(|other| *other == again) {
                        under_way.swap_remove(at);
                    }
                }
            }
            let (reply, due) = oneshot::channel();
            if self.requests.send(Request::DnsDue(under_way.clone(), reply)).await.is_err() {
                return;
            }
            for again in due.await.unwrap_or_default() {
                under_way.push(again.clone());
                asking.push(self.ask_again(again, settings, metrics));
            }
        }
    }

    /// Asks, and has rules know what is said.
    async fn ask_again(&self, again: Again, settings: &DnsSettings, metrics: &DnsMetrics) -> Again {
        let replied = ask(again.name.clone(), again.server).await;
        metrics.asked_again(replied.is_some());
        if let Some(answers) = replied.filter(|answers| !answers.is_empty()) {
            let told = Receiver::Attachment(again.pod.clone());
            // That rules cannot have it is told where they are changed, and it is asked again.
            let _ = self.request(|reply| Request::Learn(told, answers, settings.shortest, reply)).await;
        }
        again
    }
}

/// What a server says of a name's addresses of both families; none if it says nothing.
async fn ask(name: Arc<str>, server: IpAddr) -> Option<Vec<DnsAnswer>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    // From nobody else anything is taken.
    socket.connect((server, PORT)).await.ok()?;
    let id = RandomState::new().build_hasher().finish() as u16;
    let mut open = Vec::new();
    for (id, question) in [(id, DnsQuestion::A), (id.wrapping_add(1), DnsQuestion::Aaaa)] {
        socket.send(&dns_query(id, &name, question)?).await.ok()?;
        open.push(id);
    }
    let (mut answers, mut replied) = (Vec::new(), false);
    let replies = async {
        let mut buffer = vec![0; LONGEST];
        while !open.is_empty() {
            let Ok(size) = socket.recv(&mut buffer).await else { return };
            let octets = buffer.get(..size).unwrap_or_default();
            let reply = open.iter().find_map(|id| Some((*id, dns_reply(octets, *id, &name, server)?)));
            let Some((id, answer)) = reply else { continue };
            open.retain(|other| *other != id);
            replied = true;
            answers.extend(answer);
        }
    };
    let _ = tokio::time::timeout(PATIENCE, replies).await;
    replied.then_some(answers)
}
