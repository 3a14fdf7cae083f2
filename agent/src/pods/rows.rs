//! What OVSDB remembers of this node's pods beside what their attachment is: which of them policy isolates.
//!
//! An agent that starts anew reads it ([`isolated`]). It is written when it has changed, soon after the flows: what is
//! remembered too long is asked of the controller, and an agent that dies within the milliseconds that are missing goes
//! by what the controller says of the pod.

use std::collections::BTreeMap;
use std::time::Duration;

use antrea_enforce::isolation::{Isolated, Isolation};
use ovs::vswitch::PortInfo;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::sleep;

use super::interfaces::attachment_of;
use super::network::NodeNetwork;
use crate::ovs::ids::key;

/// Pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Ports in one transaction; the others come with the next.
const AT_ONCE: usize = 256;

/// Which of these ports' pods were isolated.
pub fn isolated(ports: &[PortInfo]) -> Isolation {
    let remembered = |port: &PortInfo| {
        let text = port.external_ids.get(key::ISOLATED)?;
        Some((attachment_of(&port.external_ids)?, Isolated::read(text)))
    };
    ports.iter().filter_map(remembered).collect()
}

/// Writes who is isolated, until nothing is told of that any more.
pub async fn follow(network: &NodeNetwork) {
    let mut isolation = network.policy().isolation();
    let mut pods = network.interface_count();
    let mut rows = network.vswitch.subscribe();
    loop {
        let wanted = isolation.borrow_and_update().clone();
        pods.mark_unchanged();
        let mut differing = wanted.map(|wanted| differing(&network.vswitch.ports(&network.bridge), &wanted));
        if let Some(differing) = differing.as_mut().filter(|differing| !differing.is_empty()) {
            let rest = differing.keys().nth(AT_ONCE).cloned();
            let more = rest.is_some_and(|first| !differing.split_off(&first).is_empty());
            let written = network.vswitch.set_ports_external_id(key::ISOLATED, differing).await;
            if let Err(error) = &written {
                tracing::warn!(%error, "cannot remember which pods are isolated, trying again");
                sleep(RETRY).await;
            }
            if more || written.is_err() {
                continue;
            }
        }
        // A pod's port is there before the pod is counted. One that somebody has deleted is put back without it.
        let goes_on = tokio::select! {
            changed = isolation.changed() => changed.is_ok(),
            changed = pods.changed() => changed.is_ok(),
            changed = rows.recv() => !matches!(changed, Err(RecvError::Closed)),
        };
        if !goes_on {
            return;
        }
        // Of rows that change at once, or that this has written, one look is enough.
        while !matches!(rows.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
    }
}

/// What has to be written to which port.
fn differing(ports: &[PortInfo], wanted: &Isolation) -> BTreeMap<String, Option<String>> {
    let differs = |port: &PortInfo| {
        let isolated = wanted.get(&attachment_of(&port.external_ids)?).map(Isolated::to_string);
        let known = port.external_ids.get(key::ISOLATED);
        (known != isolated.as_ref()).then(|| (port.name.clone(), isolated))
    };
    ports.iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(container: &str, isolated: Option<&str>) -> PortInfo {
        let mut external_ids = BTreeMap::from([(key::CONTAINER_ID.to_owned(), container.to_owned())]);
        external_ids.extend(isolated.map(|text| (key::ISOLATED.to_owned(), text.to_owned())));
        PortInfo {
            uuid: Default::default(),
            name: format!("port-{container}"),
            ofport: Some(1),
            ofport_request: Some(1),
            kind: Default::default(),
            options: BTreeMap::new(),
            external_ids,
            error: None,
            mac: None,
            mac_in_use: None,
            tag: None,
            mtu: None,
        }
    }

    #[test]
    fn only_what_differs_is_written_and_what_is_written_is_read() {
        let ports = [port("a", Some("ingress")), port("b", None), port("c", Some("egress")), port("d", None)];
        let key = |container: &str| (container.to_owned(), "eth0".to_owned());
        let read = isolated(&ports);
        assert_eq!(read.keys().cloned().collect::<Vec<_>>(), [key("a"), key("c")]);
        assert_eq!(differing(&ports, &read), BTreeMap::new());
        let wanted =
            Isolation::from([(key("a"), Isolated::read("ingress")), (key("b"), Isolated::read("egress"))]);
        let expected = [("port-b".to_owned(), Some("egress".to_owned())), ("port-c".to_owned(), None)];
        assert_eq!(differing(&ports, &wanted), BTreeMap::from(expected));
    }
}
