//! Packets to the controller and from it.

use super::*;

/// Ethernet frame of a UDP datagram from 10.0.0.1 to 10.0.0.2 with the given payload.
pub(super) fn frame(payload: &[u8]) -> Bytes {
    let udp_len = u16::try_from(8 + payload.len()).unwrap();
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_len).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend(ip);
    frame.extend([0, 5, 0, 53]);
    frame.extend(udp_len.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    Bytes::from(frame)
}

pub(super) fn to_table(payload: &[u8], in_port: u32) -> PacketOut {
    PacketOut {
        buffer_id: None,
        matches: Match::new().in_port(in_port),
        actions: vec![Action::Output(PortNo::TABLE)],
        packet: frame(payload),
    }
}

#[tokio::test]
async fn packets_in_and_out_and_resumed() {
    let setup = setup().await;
    setup.add_port("p1", 1).await;
    let mut packets = setup.of.take_packet_ins().unwrap();
    assert!(setup.of.take_packet_ins().is_none());
    // Up to the controller with two bytes of user data and paused; counted where it goes on.
    let up = ControllerAction { userdata: vec![1, 2], pause: true, ..ControllerAction::default() };
    setup
        .of
        .bundle(adds([
            Flow::new(0, 10)
                .cookie(0xc0de)
                .matching(Match::new().udp())
                .action(SubField::reg(3, 0, 31).load(0x1234_5678))
                .action(up)
                .action(Action::resubmit_table(1)),
            Flow::new(1, 10)
                .cookie(0xbeef)
                .matching(Match::new().udp().exact(Field::reg(3).unwrap(), 0x1234_5678)),
        ]))
        .await
        .unwrap();
    setup.of.packet_out(to_table(b"hello", 1)).await.unwrap();
    let packet = tokio::time::timeout(LIMIT, packets.recv()).await.unwrap().unwrap();
    assert_eq!(packet.packet, frame(b"hello"));
    assert_eq!(packet.userdata, [1, 2][..]);
    assert_eq!((packet.in_port(), packet.table), (Some(PortNo(1)), Some(0)));
    assert_eq!(packet.metadata.get_bits(SubField::reg(3, 0, 31)), Some(0x1234_5678));
    assert!(packet.continuation.is_some());

    let passed = || async {
        let flows = setup.of.flows(FlowFilter::cookie(0xbeef, u64::MAX)).await.unwrap();
        flows[0].stats.packets
    };
    assert_eq!(passed().await, Some(0));
    setup.of.send(Message::NxResume(packet)).await.unwrap();
    common::eventually("the paused packet went on", || async { passed().await == Some(1) }).await;
    assert_eq!(setup.of.packet_ins_dropped(), 0);
}

#[tokio::test]
async fn packet_ins_beyond_the_queue_are_counted() {
    let setup = setup_with(OfConfig { packet_in_queue: 4, ..config() }).await;
    setup.add_port("p1", 1).await;
    setup
        .of
        .bundle(adds([Flow::new(0, 10)
            .cookie(0xc0de)
            .matching(Match::new().udp())
            .action(ControllerAction::default())]))
        .await
        .unwrap();
    for n in 0..20u8 {
        setup.of.packet_out(to_table(&[n], 1)).await.unwrap();
    }
    common::eventually("16 packets dropped", || async { setup.of.packet_ins_dropped() == 16 }).await;
    let mut packets = setup.of.take_packet_ins().unwrap();
    for n in 0..4u8 {
        let packet = packets.recv().await.unwrap();
        assert_eq!((packet.packet, packet.cookie), (frame(&[n]), Some(0xc0de)));
    }
    // The session was never held up.
    setup.of.aggregate(FlowFilter::all()).await.unwrap();
}
