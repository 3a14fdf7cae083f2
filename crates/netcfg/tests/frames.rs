//! Frames of our own over a real link.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod common;

use std::time::Duration;

use common::{Host, joined};
use netcfg::{Error, FrameSocket};
use nix::errno::Errno;
use tokio::time::timeout;

const OURS: u16 = 0x88b5;
const OTHER: u16 = 0x88b6;
const LIMIT: Duration = Duration::from_secs(10);

async fn open(host: &Host, link: &'static str, ether_type: u16) -> netcfg::Result<FrameSocket> {
    host.ns.run(move || FrameSocket::open(link, ether_type)).await.unwrap()
}

fn frame(to: [u8; 6], from: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ether_type.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn frames_of_one_type_arrive_and_no_others() {
    let (host, peer) = joined("gw", "eth0").await;
    let (here, there) = (open(&host, "gw", OURS).await.unwrap(), open(&peer, "eth0", OURS).await.unwrap());
    let (from, to) = (here.mac().0, there.mac().0);
    assert_eq!(Some(here.mac()), host.nl.require_link("gw").await.unwrap().mac);
    here.send(&frame(to, from, OTHER, &[7; 46])).await.unwrap();
    // Neither the own address nor broadcast: whoever tests a link wants to see it all the same.
    let stranger = frame([2, 0, 0, 0, 0, 9], from, OURS, &[8; 46]);
    here.send(&stranger).await.unwrap();
    let mut buffer = [0; 60];
    let length = timeout(LIMIT, there.receive(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(buffer[..length], stranger[..]);
    // What is sent is not heard by the sender.
    there.send(&frame(from, to, OURS, &[9; 46])).await.unwrap();
    let length = timeout(LIMIT, here.receive(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((length, buffer[14]), (60, 9));
}

#[tokio::test]
async fn a_link_that_is_away_or_down_is_named() {
    let (host, _peer) = joined("gw", "eth0").await;
    let away = open(&host, "nosuch0", OURS).await.unwrap_err();
    assert!(matches!(&away, Error::LinkNotFound(name) if name == "nosuch0"), "{away}");
    let socket = open(&host, "gw", OURS).await.unwrap();
    host.sh("ip link set gw down").await;
    let down = socket.send(&frame([0xff; 6], socket.mac().0, OURS, &[0; 46])).await.unwrap_err();
    assert_eq!(down.errno(), Some(Errno::ENETDOWN), "{down}");
}
