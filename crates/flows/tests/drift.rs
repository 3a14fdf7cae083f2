//! Differences carried out over OpenFlow, read back, broken by hand and repaired: what the switch reports must
//! compare equal to what was asked for, or an agent that verifies would repair for ever.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use antrea_flows::{
    BridgeStore, Change, Diff, Owner, Round,
    config::{Datapath, TunnelKind},
    policy::{Action, Class, Direction, Peers, PortRange, Protocol, Realizer, Rule, Service},
    state::Found,
};
use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use openflow::{
    Actions, Flow, FlowMod, Message, Xid,
    multipart::{FlowFilter, MultipartReply, MultipartRequest},
};
use support::{direct_peer, network, pod, switch, tunnel_peer};

/// A blocking OpenFlow connection.
struct Session {
    stream: UnixStream,
    input: BytesMut,
}

impl Session {
    fn open(path: &str) -> Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut session = Self { stream, input: BytesMut::new() };
        session.send(&Message::Hello { versions: 1 << 6 })?;
        session.wait(|m| matches!(m, Message::Hello { .. }).then_some(()))?;
        Ok(session)
    }

    fn send(&mut self, message: &Message) -> Result<()> {
        let mut out = BytesMut::new();
        message.encode(Xid(1), &mut out)?;
        Ok(self.stream.write_all(&out)?)
    }

    fn wait<T>(&mut self, mut pick: impl FnMut(Message) -> Option<T>) -> Result<T> {
        loop {
            while let Some((_, message)) = Message::decode(&mut self.input)? {
                if let Message::Error(error) = &message {
                    bail!("{error}");
                }
                if let Some(picked) = pick(message) {
                    return Ok(picked);
                }
            }
            let mut chunk = [0; 65536];
            let n = self.stream.read(&mut chunk).context("read from the switch")?;
            anyhow::ensure!(n > 0, "the switch closed the connection");
            self.input.extend_from_slice(chunk.get(..n).unwrap());
        }
    }

    fn carry_out(&mut self, diff: Diff) -> Result<()> {
        for message in diff.steps().bundle {
            self.send(&message)?;
        }
        self.send(&Message::BarrierRequest)?;
        self.wait(|m| matches!(m, Message::BarrierReply).then_some(()))
    }

    fn installed(&mut self) -> Result<Found> {
        self.send(&Message::MultipartRequest(MultipartRequest::FlowDesc(FlowFilter::all())))?;
        let mut flows = Vec::new();
        self.wait(|m| match m {
            Message::MultipartReply { more, body: MultipartReply::FlowDesc(part) } => {
                flows.extend(part.into_iter().map(|e| e.flow));
                (!more).then_some(())
            }
            _ => None,
        })?;
        self.send(&Message::MultipartRequest(MultipartRequest::GroupDesc(None)))?;
        let mut groups = Vec::new();
        self.wait(|m| match m {
            Message::MultipartReply { more, body: MultipartReply::GroupDesc(part) } => {
                groups.extend(part);
                (!more).then_some(())
            }
            _ => None,
        })?;
        Ok(Found { flows, groups, ..Found::default() })
    }
}

fn set(store: &mut BridgeStore, owner: Owner, flows: Vec<Flow>) -> Result<Diff> {
    stage(store, &owner, &Change::flows(flows))
}

/// What the switch has to do for it.
fn stage(store: &mut BridgeStore, owner: &Owner, change: &Change) -> Result<Diff> {
    let undo = store.stage([(owner, change)])?;
    Ok(store.difference([&undo]))
}

fn counts(diff: &Diff) -> (usize, usize, usize) {
    (diff.adds.len(), diff.mods.len(), diff.deletes.len())
}

#[test]
fn what_the_switch_reports_is_what_was_asked_for() -> Result<()> {
    for (datapath, kind) in
        [(Datapath::Userspace, TunnelKind::KernelVxlan), (Datapath::Kernel, TunnelKind::FlowBased)]
    {
        let sw = switch()?;
        let mut session = Session::open(&sw.bridge_socket())?;
        let net = network(datapath, kind);
        let mut store = BridgeStore::new();
        let mut diffs = vec![
            set(&mut store, Owner::Node, antrea_flows::node(&net))?,
            set(&mut store, Owner::Pod("p1".into()), antrea_flows::pod(&net, &pod(1)))?,
            set(&mut store, Owner::Pod("p2".into()), antrea_flows::pod(&net, &pod(2)))?,
            set(&mut store, Owner::Peer("node2".into()), antrea_flows::peer(&net, &tunnel_peer()))?,
            set(&mut store, Owner::Peer("node3".into()), antrea_flows::peer(&net, &direct_peer()))?,
        ];
        let mut realizer = Realizer::new(&net);
        for (id, direction, class, action) in [
            (1, Direction::In, Class::K8s, Action::Allow),
            (2, Direction::Out, Class::K8s, Action::Allow),
            (3, Direction::In, Class::Native { priority: 300 }, Action::Reject),
            (4, Direction::Out, Class::Native { priority: 301 }, Action::Pass),
            (5, Direction::In, Class::Baseline { priority: 100 }, Action::Drop),
        ] {
            let ports = |p| Service::to(p, PortRange::new(10, 99).unwrap());
            let icmp = Service { icmp_type: Some(8), icmp_code: Some(0), ..Service::all(Protocol::Icmp) };
            let diff = Change::Diff(realizer.upsert_rule(Rule {
                id,
                direction,
                class,
                action,
                pods: [1, 2].map(|n| (n, pod(n).ips.into())).into(),
                peers: Peers::Of(
                    ["10.0.0.0/8", "0.0.0.0/0", "fd00::/8", "::/0"].map(|n| n.parse().unwrap()).into(),
                ),
                services: vec![ports(Protocol::Tcp), ports(Protocol::Udp), ports(Protocol::Sctp), icmp],
                logs: false,
            })?);
            diffs.push(stage(&mut store, &Owner::Policy, &diff)?);
        }
        for diff in diffs {
            session.carry_out(diff)?;
        }
        let installed = session.installed()?;
        assert_eq!(installed.len(), store.len());
        let diff = store.compare(&installed).diff;
        let installed = installed.flows;
        assert!(diff.is_empty(), "{diff:#?}");

        // By hand: one deleted, one changed, one too many, one of another round.
        let victim = installed.iter().find(|f| f.priority == 64990).unwrap();
        session.send(&FlowMod::delete_strict(victim).into())?;
        let mut changed =
            installed.iter().find(|f| f.actions != Actions::default() && f.priority == 190).unwrap().clone();
        changed.actions = Actions::default();
        session.send(&FlowMod::add(changed).into())?;
        session.send(&FlowMod::add(Flow::new(3, 7).cookie(0xbad)).into())?;
        let mut stale = installed.iter().find(|f| f.priority == 205).unwrap().clone();
        stale.cookie = Round(6).bits();
        session.send(&FlowMod::add(stale).into())?;
        let diff = store.compare(&session.installed()?).diff;
        assert_eq!(counts(&diff), (1, 2, 1), "{diff:#?}");
        session.carry_out(diff)?;
        assert!(store.compare(&session.installed()?).diff.is_empty());

        session.carry_out(set(&mut store, Owner::Pod("p2".into()), Vec::new())?)?;
        assert!(store.compare(&session.installed()?).diff.is_empty());

        // A new round: every flow is replaced, none is gone in between, and leftovers go by cookie.
        let next = antrea_flows::Network { round: Round(8), ..net };
        let diff = set(&mut store, Owner::Node, antrea_flows::node(&next))?;
        assert_eq!(diff.deletes.len() + diff.adds.len(), 0);
        session.carry_out(diff)?;
        session.send(&FlowMod::delete_by_cookie(Round(7).bits(), Round::MASK).into())?;
        assert_eq!(session.installed()?.len(), store.of(&Owner::Node).len());
    }
    Ok(())
}

/// Services with groups of every shape, and what the switch learns for them.
#[test]
fn services_are_reported_as_they_were_asked_for() -> Result<()> {
    let sw = switch()?;
    let mut session = Session::open(&sw.bridge_socket())?;
    let mut config = support::node(Datapath::Kernel, TunnelKind::FlowBased);
    (config.services, config.serves_all) = (true, true);
    let net = antrea_flows::Network::new(config, Round(7));
    let mut store = BridgeStore::new();
    let mut flows = antrea_flows::node(&net);
    flows.extend(antrea_flows::pod(&net, &pod(1)));
    flows.extend(antrea_flows::peer(&net, &support::tunnel_peer()));
    session.carry_out(set(&mut store, Owner::Node, flows)?)?;
    let mut group = 0;
    for (frontend, pods) in
        [("10.96.0.1", "10.244.2.0"), ("192.0.2.1", "10.244.2.0"), ("fd00:96::1", "fd00:2::0")]
    {
        for (count, affinity) in
            [(1, None), (250, None), (251, None), (600, Some(10_800)), (3, Some(100_000))]
        {
            group += 256;
            let transport =
                [antrea_flows::Transport::Tcp, antrea_flows::Transport::Udp, antrea_flows::Transport::Sctp];
            let backend = antrea_flows::ServiceBackend {
                group,
                transport: transport[group as usize / 256 % 3],
                frontends: vec![(support::ip(frontend), (group / 256) as u16).into()],
                outside: vec![(support::ip(frontend), (group / 256) as u16).into()],
                endpoints: (0..count).map(|n| (support::ip(pods), 2000 + n).into()).collect(),
                affinity,
            };
            let change = Change::Whole(antrea_flows::service_backend(&net, &backend));
            let owner = Owner::Service(format!("default/{group}").into());
            session.carry_out(stage(&mut store, &owner, &change)?)?;
        }
    }
    let frontend = (support::ip("192.0.2.2"), 80).into();
    let transport = antrea_flows::Transport::Tcp;
    let sources = vec!["198.51.100.0/24".parse().unwrap(), "0.0.0.0/0".parse().unwrap()];
    let mut others = antrea_flows::guard(&net, &antrea_flows::Guard { transport, frontend, sources });
    for audience in [antrea_flows::Audience::Everybody, antrea_flows::Audience::Outside] {
        let unserved = antrea_flows::Unserved { transport, frontend, audience, is_refused: true };
        others.extend(antrea_flows::unserved(&net, &unserved));
    }
    session.carry_out(stage(
        &mut store,
        &Owner::Service("default/others".into()),
        &Change::Whole(others),
    )?)?;
    let diff = store.compare(&session.installed()?).diff;
    assert!(diff.is_empty(), "{diff:#?}");
    // One endpoint more is one group's change; nothing else is sent.
    let backend = antrea_flows::ServiceBackend {
        group: 256,
        transport: antrea_flows::Transport::Udp,
        frontends: vec![(support::ip("10.96.0.1"), 1).into()],
        outside: vec![(support::ip("10.96.0.1"), 1).into()],
        endpoints: vec![(support::ip("10.244.2.0"), 2000).into(), (support::ip("10.244.2.1"), 2000).into()],
        affinity: None,
    };
    let change = Change::Whole(antrea_flows::service_backend(&net, &backend));
    let diff = stage(&mut store, &Owner::Service("default/256".into()), &change)?;
    assert_eq!(counts(&diff), (0, 1, 0), "{diff:#?}");
    session.carry_out(diff)?;
    assert!(store.compare(&session.installed()?).diff.is_empty());
    let all: Vec<Owner> =
        store.owners().filter(|owner| matches!(owner, Owner::Service(_))).cloned().collect();
    for owner in all {
        session.carry_out(stage(&mut store, &owner, &Change::nothing())?)?;
    }
    let installed = session.installed()?;
    assert_eq!((installed.groups.len(), store.compare(&installed).diff.len()), (0, 0));
    Ok(())
}
