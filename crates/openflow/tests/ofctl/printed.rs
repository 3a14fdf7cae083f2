//! Messages that no command of ovs-ofctl sends, read by its printer.

use anyhow::{Context, Result, ensure};
use openflow::multipart::{FlowStats, MultipartReply};

/// `ovs-ofctl ofp-print` understands what no command of ovs-ofctl sends.
#[test]
fn printed_by_ofp_print() -> Result<()> {
    use openflow::*;
    let packet = PacketIn2 {
        packet: vec![0xaa; 60].into(),
        full_len: Some(100),
        table: Some(5),
        cookie: Some(0x1234),
        reason: Some(PacketInReason::Action),
        metadata: "in_port=3,reg0=0x5,tun_id=0x7".parse()?,
        userdata: vec![1, 2].into(),
        ..PacketIn2::default()
    };
    let error = |experimenter, kind, code| {
        Message::Error(ErrorMsg { experimenter, kind, code, data: vec![6, 14, 0, 8, 0, 0, 0, 1].into() })
    };
    let cases: Vec<(Message, Vec<&str>)> = vec![
        (Message::Hello { versions: 1 << 6 }, vec!["OFPT_HELLO", "version bitmap: 0x06"]),
        (error(0, 5, 1), vec!["OFPFMFC_TABLE_FULL"]),
        (error(0x2320, 0xffff, 15), vec!["NXBAC_BAD_CONJUNCTION"]),
        (
            Message::PacketIn2(packet.clone()),
            vec![
                "NXT_PACKET_IN2",
                "table_id=5",
                "cookie=0x1234",
                "total_len=100",
                "reg0=0x5",
                "tun_id=0x7",
                "in_port=3",
                "userdata=01.02",
                "via action",
            ],
        ),
        (
            Message::NxSetPacketInFormat(PacketInFormat::Nxt2),
            vec!["NXT_SET_PACKET_IN_FORMAT", "nxt_packet_in2"],
        ),
        (
            Message::NxCtFlush(CtFlush {
                zone: Some(65520),
                original: CtTuple { src: Some("10.244.1.5".parse()?), ..CtTuple::default() },
                ..CtFlush::default()
            }),
            vec!["NXT_CT_FLUSH", "65520", "ct_nw_src=10.244.1.5"],
        ),
        (
            Message::NxCtFlush(CtFlush {
                protocol: 17,
                reply: CtTuple { dst: Some("fd00::5".parse()?), src_port: Some(53), ..CtTuple::default() },
                ..CtFlush::default()
            }),
            vec!["NXT_CT_FLUSH", "ct_ipv6_dst=fd00::5", "ct_tp_src=53", "ct_nw_proto=17"],
        ),
        (Message::NxSetControllerId(0x9c41), vec!["NXT_SET_CONTROLLER_ID", "id=40001"]),
        (
            Message::PacketOut(PacketOut {
                buffer_id: None,
                matches: Match::new().in_port(PortNo::CONTROLLER).reg(1, 5),
                actions: vec![Action::Output(PortNo(3))],
                packet: vec![0; 60].into(),
            }),
            vec![
                "OFPT_PACKET_OUT (OF1.5)",
                "in_port=CONTROLLER",
                "reg1=0x5",
                "actions=output:3",
                "data_len=60",
            ],
        ),
        (
            Message::RoleRequest(RoleMsg { role: Role::Primary, generation_id: 7 }),
            vec!["OFPT_ROLE_REQUEST", "role=", "generation_id=7"],
        ),
        (Message::SetAsync(AsyncConfig { masks: vec![(0, 0), (1, 2), (5, 3)] }), vec!["OFPT_SET_ASYNC"]),
        (
            Message::NxTlvTableMod(TlvTableMod {
                command: 0,
                mappings: vec![TlvMapping { option_class: 0xffff, option_type: 1, option_len: 4, index: 3 }],
            }),
            vec!["NXT_TLV_TABLE_MOD", "ADD", "0xffff", "tun_metadata3"],
        ),
        (
            Message::FlowRemoved(FlowRemoved {
                table: 4,
                priority: 200,
                matches: "tcp,nw_src=10.0.0.1".parse()?,
                cookie: 5,
                reason: FlowRemovedReason::IdleTimeout,
                idle_timeout: 7,
                hard_timeout: 8,
                stats: FlowStats {
                    duration: Some((9, 0)),
                    packets: Some(11),
                    bytes: Some(12),
                    ..Default::default()
                },
            }),
            vec![
                "reason=idle",
                "table_id=4",
                "idle7",
                "hard8",
                "pkts11",
                "bytes12",
                "duration9",
                "cookie:0x5",
                "nw_src=10.0.0.1",
            ],
        ),
        (
            Message::PortStatus {
                reason: PortReason::Modify,
                port: PortDesc {
                    port_no: PortNo(3),
                    hw_addr: MacAddr([2, 0, 0, 0, 0, 3]),
                    name: "antrea-tun0".into(),
                    config: 1,
                    state: 4,
                    curr_speed: 10_000_000,
                    max_speed: 0,
                    curr: 0,
                    advertised: 0,
                    supported: 0,
                    peer: 0,
                },
            },
            vec![
                "OFPT_PORT_STATUS",
                "MOD",
                "3(antrea-tun0)",
                "addr:02:00:00:00:00:03",
                "PORT_DOWN",
                "LIVE",
                "10000 Mbps now",
            ],
        ),
        (
            Message::MultipartReply {
                more: false,
                body: MultipartReply::TableStats(vec![multipart::TableStats {
                    table: 5,
                    active: 7,
                    lookups: 11,
                    matched: 9,
                }]),
            },
            vec!["table 5", "active=7", "lookup=11", "matched=9"],
        ),
        (
            Message::MultipartReply {
                more: false,
                body: MultipartReply::GroupStats(vec![multipart::GroupStats {
                    id: 3,
                    ref_count: 2,
                    packets: 10,
                    bytes: 20,
                    duration: (5, 0),
                    buckets: vec![(1, 2), (3, 4)],
                }]),
            },
            vec![
                "group_id=3",
                "duration=5",
                "ref_count=2",
                "packet_count=10",
                "byte_count=20",
                "bucket1:packet_count=3",
            ],
        ),
        (
            Message::MultipartReply {
                more: false,
                body: MultipartReply::MeterStats(vec![multipart::MeterStats {
                    id: 3,
                    flow_count: 2,
                    packets_in: 10,
                    bytes_in: 20,
                    duration: (5, 0),
                    bands: vec![(1, 2)],
                }]),
            },
            vec![
                "meter:3",
                "flow_count:2",
                "packet_in_count:10",
                "byte_in_count:20",
                "packet_count:1 byte_count:2",
            ],
        ),
        (
            Message::MultipartReply {
                more: false,
                body: MultipartReply::MeterFeatures(multipart::MeterFeatures {
                    max_meters: 70_000,
                    band_types: 1 << 1,
                    capabilities: 1 << 1,
                    max_bands: 2,
                    max_color: 3,
                }),
            },
            vec!["max_meter:70000", "max_bands:2", "max_color:3", "drop", "pktps"],
        ),
        (
            Message::MultipartRequest(multipart::MultipartRequest::FlowMonitor(multipart::FlowMonitor {
                table: Some(3),
                out_port: Some(PortNo(7)),
                matches: Match::new().arp(),
                ..multipart::FlowMonitor::all(9)
            })),
            vec!["id=9", "flags=add,delete,modify", "out_port=7", "table=3", "arp"],
        ),
        (
            Message::MultipartReply {
                more: false,
                body: MultipartReply::FlowMonitor(vec![
                    multipart::FlowUpdate::Flow {
                        event: multipart::FlowEvent::Added,
                        reason: 0,
                        flow: "cookie=0x9,table=3,priority=7,tcp actions=drop".parse()?,
                    },
                    multipart::FlowUpdate::Flow {
                        event: multipart::FlowEvent::Removed,
                        reason: 2,
                        flow: Flow::new(4, 5).matching(Match::new().arp()),
                    },
                    multipart::FlowUpdate::Abbreviated(Xid(0x1234)),
                ]),
            },
            vec![
                "event=ADDED table=3 cookie=0x9 tcp",
                "event=DELETED reason=delete table=4",
                "event=ABBREV xid=0x1234",
            ],
        ),
        (
            Message::MultipartReply {
                more: false,
                body: MultipartReply::TableFeatures(vec![multipart::TableFeatures {
                    table: 5,
                    name: "Classifier".into(),
                    max_entries: 1000,
                }]),
            },
            vec!["table 5 (\"Classifier\")", "max_entries=1000"],
        ),
    ];
    for (message, words) in cases {
        let mut out = bytes::BytesMut::new();
        message.encode(Xid(7), &mut out)?;
        let text: String = out.iter().map(|b| format!("{b:02x}")).collect();
        let run = std::process::Command::new("ovs-ofctl").args(["-m", "ofp-print", &text]).output()?;
        let printed = String::from_utf8(run.stdout)?;
        for word in words {
            ensure!(printed.contains(word), "{word:?} is not in {printed}");
        }
        let (xid, back) = Message::decode(&mut out)?.context("not whole")?;
        ensure!(xid == Xid(7) && back == message, "{back:?}");
    }
    Ok(())
}
