//! The same bytes and the same text as ovs-ofctl.

#[path = "../support/mod.rs"]
mod support;

mod printed;

use anyhow::{Context, Result, ensure};
use openflow::multipart::{FlowEntry, FlowFilter, FlowStats, MultipartReply, MultipartRequest, TableDesc};
use openflow::{
    Bucket, BucketPos, BundleControl, BundleCtrlType, BundleFlags, Flow, FlowCommand, FlowMod, Group,
    GroupCommand, GroupMod, GroupType, Match, Message, Meter, MeterCommand, TableNames,
};
use support::{encode, hex, ofctl};

fn lines() -> Vec<&'static str> {
    include_str!("../flows.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect()
}

fn flows() -> Result<Vec<Flow>> {
    lines().into_iter().map(|l| l.parse().with_context(|| format!("line {l:?}"))).collect()
}

#[test]
fn add_flow_bytes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("flows");
    std::fs::write(&file, lines().join("\n"))?;
    let sent = ofctl(&[], "add-flows", &[&file.display().to_string()], None)?.sent;
    let flows = flows()?;
    ensure!(sent.len() == flows.len(), "ovs-ofctl sent {} messages for {} flows", sent.len(), flows.len());
    let mut wrong = Vec::new();
    for ((line, flow), theirs) in lines().into_iter().zip(&flows).zip(&sent) {
        let ours = encode(&FlowMod::add(flow.clone()).into());
        if ours != *theirs {
            wrong.push(format!("{line}\n ours   {}\n theirs {}", hex(&ours), hex(theirs)));
        }
        let mut input = theirs.as_slice().into();
        let (_, message) = Message::decode(&mut input)?.context("not whole")?;
        if message != Message::FlowMod(FlowMod::add(flow.clone())) {
            wrong.push(format!("{line}\n built   {flow:?}\n decoded {message:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// What `dump-flows --no-stats` prints: it leaves out a cookie and a table of 0 and the default priority,
/// which our form always has.
fn as_dumped(flow: &Flow) -> String {
    let mut text = flow.to_string();
    for default in ["cookie=0x0, ", "table=0, ", "priority=32768,", "priority=32768 "] {
        text = text.replacen(default, "", 1);
    }
    text
}

#[test]
fn dump_flows_text() -> Result<()> {
    let mut wrong = Vec::new();
    for flow in flows()? {
        let entry = FlowEntry { flow: flow.clone(), stats: FlowStats::default() };
        let reply = MultipartReply::FlowDesc(vec![entry]);
        let theirs = match ofctl(&["--no-stats"], "dump-flows", &[], Some(reply)) {
            Ok(out) => out.stdout.trim().to_owned(),
            Err(e) => {
                wrong.push(format!(" refused {flow}: {e}"));
                continue;
            }
        };
        if as_dumped(&flow) != theirs {
            wrong.push(format!(" ours   {flow}\n theirs {theirs}"));
        }
        match theirs.parse::<Flow>() {
            Ok(back) if back == flow => {}
            Ok(back) => wrong.push(format!(" printed {theirs}\n read    {back}")),
            Err(e) => wrong.push(format!(" printed {theirs}\n {e}")),
        }
    }
    ensure!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn dump_with_stats_is_read_and_written() -> Result<()> {
    let flows = flows()?;
    let stats = FlowStats {
        duration: Some((3, 500_000_000)),
        idle_time: Some((1, 0)),
        flow_count: None,
        packets: Some(7),
        bytes: Some(700),
    };
    let entries = flows.iter().map(|f| FlowEntry { flow: f.clone(), stats }).collect();
    let printed = ofctl(&[], "dump-flows", &[], Some(MultipartReply::FlowDesc(entries)))?.stdout;
    let mut read = 0;
    for (flow, line) in flows.iter().zip(printed.lines().filter(|l| l.contains("cookie="))) {
        ensure!(line.contains("duration=3.5") && line.contains("n_packets=7, n_bytes=700"), "{line}");
        ensure!(line.parse::<Flow>()? == *flow, "{line}");
        // Up to what differs in our form without counters too.
        let ours = FlowEntry { flow: flow.clone(), stats }.named(&TableNames::new()).to_string();
        let counted =
            |text: &str| text.split_once(", n_bytes=700, ").map(|(begin, _)| begin.trim().to_owned());
        ensure!(counted(&ours).is_some() && counted(&ours) == counted(line), "ours {ours}\n theirs {line}");
        ensure!(ours.parse::<Flow>()? == *flow, "{ours}");
        read += 1;
    }
    ensure!(read == flows.len(), "{read} of {}", flows.len());
    Ok(())
}

const GROUPS: &[&str] = &[
    "group_id=3,type=select,selection_method=dp_hash,bucket=bucket_id:0,weight:100,actions=load:0x1->NXM_NX_REG3[],resubmit(,5),bucket=bucket_id:1,weight:50,actions=output:2",
    "group_id=4,type=select,selection_method=hash,fields(ip_src=255.255.255.0,tcp_src),selection_method_param=7,bucket=watch_port:3,actions=output:2",
    "group_id=5,type=select,selection_method=hash,fields=ip_src,bucket=watch_group:3,actions=output:2",
    "group_id=6,type=all,bucket=resubmit(,17),bucket=actions=controller(id=5,userdata=01.02)",
    "group_id=7,type=indirect,bucket=actions=output:2",
    "group_id=8,type=fast_failover,bucket=watch_port:1,actions=output:1,bucket=watch_port:2,actions=output:2",
    "group_id=9,type=select,bucket=bucket_id:5,weight:0,actions=drop",
    "group_id=10,type=all",
];

fn groups() -> Result<Vec<Group>> {
    GROUPS.iter().map(|l| l.parse().with_context(|| format!("group {l:?}"))).collect()
}

#[test]
fn group_bytes_and_text() -> Result<()> {
    let groups = groups()?;
    for (line, group) in GROUPS.iter().zip(&groups) {
        for (options, command, what) in [
            (&[][..], "add-group", GroupCommand::Add),
            (&[][..], "mod-group", GroupCommand::Modify),
            (&["--may-create"][..], "mod-group", GroupCommand::AddOrModify),
        ] {
            let sent = ofctl(options, command, &[line], None)?.sent;
            let ours = encode(&GroupMod { command: what, group: group.clone() }.into());
            ensure!(sent == [ours.clone()], "{line}\n ours   {}\n theirs {}", hex(&ours), hex(&sent[0]));
        }
    }
    let reply = MultipartReply::GroupDesc(groups.clone());
    let printed = ofctl(&[], "dump-groups", &[], Some(reply))?.stdout;
    let theirs: Vec<_> = printed.lines().map(str::trim).filter(|l| l.starts_with("group_id")).collect();
    let ours: Vec<_> = groups.iter().map(Group::to_string).collect();
    ensure!(ours == theirs, "ours {ours:#?}\ntheirs {theirs:#?}");
    for (text, group) in theirs.iter().zip(&groups) {
        ensure!(text.parse::<Group>()? == *group, "{text}");
    }
    Ok(())
}

#[test]
fn bucket_and_delete_bytes() -> Result<()> {
    let bucket = Bucket::new(7, 0).action(openflow::Action::Output(openflow::PortNo(4)));
    let cases: Vec<(&str, &str, Message)> = vec![
        (
            "insert-buckets",
            "group_id=3,command_bucket_id=last,bucket=bucket_id:7,actions=output:4",
            GroupMod {
                command: GroupCommand::InsertBucket(BucketPos::Last),
                group: Group::new(3, GroupType::All).bucket(bucket),
            }
            .into(),
        ),
        ("remove-buckets", "group_id=3,command_bucket_id=7", GroupMod::remove_bucket(3, 7).into()),
        ("del-groups", "group_id=3", GroupMod::delete(3).into()),
        (
            "del-flows",
            "cookie=0x10/0xff0,table=3",
            FlowMod {
                cookie_mask: 0xff0,
                ..FlowMod::new(FlowCommand::Delete, Flow::new(3, Flow::DEFAULT_PRIORITY).cookie(0x10))
            }
            .into(),
        ),
        (
            "mod-flows",
            "table=3,ip,actions=output:3",
            FlowMod::new(FlowCommand::Modify, "table=3,ip,actions=output:3".parse()?).into(),
        ),
    ];
    for (command, text, ours) in cases {
        let sent = ofctl(&[], command, &[text], None)?.sent;
        let ours = encode(&ours);
        ensure!(sent == [ours.clone()], "{command} {text}\n ours   {}\n theirs {sent:02x?}", hex(&ours));
    }
    let flow = Flow::new(3, 7).matching(Match::new().ip()).cookie(9).action(openflow::Action::DecTtl);
    let sent = ofctl(&["--strict"], "del-flows", &["table=3,priority=7,ip"], None)?.sent;
    ensure!(sent == [encode(&FlowMod::delete_strict(&flow).into())], "{sent:02x?}");
    Ok(())
}

#[test]
fn bundle_bytes() -> Result<()> {
    let text = "table=3,priority=4,ip,actions=drop";
    let sent = ofctl(&["--bundle"], "add-flow", &[text], None)?.sent;
    let flags = BundleFlags::ATOMIC | BundleFlags::ORDERED;
    let control = |kind| Message::BundleControl(BundleControl { bundle_id: 0, kind, flags });
    let add =
        Message::BundleAdd { bundle_id: 0, flags, message: Box::new(FlowMod::add(text.parse()?).into()) };
    ensure!(sent.len() == 3, "{sent:02x?}");
    ensure!(sent[0] == encode(&control(BundleCtrlType::OpenRequest)));
    let (_, theirs) = Message::decode(&mut sent[1].as_slice().into())?.context("not whole")?;
    ensure!(theirs == add, "{theirs:?}");
    let mut inner_without_xid = sent[1].clone();
    inner_without_xid[20..24].fill(0);
    ensure!(inner_without_xid == encode(&add));
    ensure!(sent[2] == encode(&control(BundleCtrlType::CommitRequest)));
    Ok(())
}

const METERS: &[&str] = &[
    "meter=3,pktps,burst,stats,bands=type=drop,rate=100,burst_size=20",
    "meter=4,kbps,bands=type=drop,rate=1000",
    "meter=5,kbps,burst,bands=type=dscp_remark,rate=1000,burst_size=7,prec_level=2,type=drop,rate=5000,burst_size=8",
];

#[test]
fn meter_bytes_and_text() -> Result<()> {
    let meters: Vec<Meter> = METERS.iter().map(|l| l.parse()).collect::<Result<_, _>>()?;
    for (line, meter) in METERS.iter().zip(&meters) {
        let sent = ofctl(&[], "add-meter", &[line], None)?.sent;
        let ours = encode(&Message::MeterMod { command: MeterCommand::Add, meter: meter.clone() });
        ensure!(sent == [ours.clone()], "{line}\n ours   {}\n theirs {sent:02x?}", hex(&ours));
    }
    let printed = ofctl(&[], "dump-meters", &[], Some(MultipartReply::MeterDesc(meters.clone())))?.stdout;
    let theirs: Vec<String> = printed
        .split("\n\n")
        .map(|m| m.lines().filter(|l| !l.contains("OFPST")).collect::<Vec<_>>().join("\n"))
        .map(|m| m.trim().to_owned())
        .filter(|m| !m.is_empty())
        .collect();
    let ours: Vec<_> = meters.iter().map(Meter::to_string).collect();
    ensure!(ours == theirs, "ours {ours:#?}\ntheirs {theirs:#?}");
    for (text, meter) in theirs.iter().zip(&meters) {
        ensure!(text.parse::<Meter>()? == *meter, "{text}");
    }
    Ok(())
}

#[test]
fn request_bytes() -> Result<()> {
    let empty = |r: MultipartReply| Some(r);
    let filter = FlowFilter { matches: "ip,nw_src=10.0.0.0/8".parse()?, ..FlowFilter::table(3) };
    let cases = [
        (
            "dump-flows",
            vec!["table=3,ip,nw_src=10.0.0.0/8"],
            MultipartRequest::FlowDesc(filter.clone()),
            empty(MultipartReply::FlowDesc(vec![])),
        ),
        (
            "dump-aggregate",
            vec!["table=3,ip,nw_src=10.0.0.0/8"],
            MultipartRequest::Aggregate(filter),
            empty(MultipartReply::Aggregate(FlowStats {
                packets: Some(1),
                bytes: Some(2),
                flow_count: Some(3),
                ..FlowStats::default()
            })),
        ),
        ("dump-groups", vec![], MultipartRequest::GroupDesc(None), empty(MultipartReply::GroupDesc(vec![]))),
        (
            "dump-group-stats",
            vec!["group_id=5"],
            MultipartRequest::GroupStats(Some(5)),
            empty(MultipartReply::GroupStats(vec![])),
        ),
        ("dump-meters", vec![], MultipartRequest::MeterDesc(None), empty(MultipartReply::MeterDesc(vec![]))),
        (
            "meter-stats",
            vec!["meter=5"],
            MultipartRequest::MeterStats(Some(5)),
            empty(MultipartReply::MeterStats(vec![])),
        ),
        ("dump-desc", vec![], MultipartRequest::Desc, empty(MultipartReply::Desc(Default::default()))),
        (
            "dump-ports-desc",
            vec!["3"],
            MultipartRequest::PortDesc(Some(openflow::PortNo(3))),
            empty(MultipartReply::PortDesc(vec![])),
        ),
        (
            "dump-ports",
            vec!["3"],
            MultipartRequest::PortStats(Some(openflow::PortNo(3))),
            empty(MultipartReply::PortStats(vec![])),
        ),
        (
            "dump-table-desc",
            vec![],
            MultipartRequest::TableDesc,
            empty(MultipartReply::TableDesc(vec![TableDesc { table: 3, config: 0 }])),
        ),
    ];
    for (command, args, request, reply) in cases {
        let out = ofctl(&[], command, &args, reply)?;
        let ours = encode(&Message::MultipartRequest(request));
        let theirs = out.sent.last().context("sent nothing")?;
        ensure!(*theirs == ours, "{command}\n ours   {}\n theirs {}", hex(&ours), hex(theirs));
    }
    Ok(())
}
