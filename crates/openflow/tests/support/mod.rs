//! A switch that only ovs-ofctl talks to: it keeps what it is sent and answers dumps with what the test
//! gives it.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use openflow::multipart::{MultipartReply, MultipartRequest};
use openflow::{BundleControl, BundleCtrlType, Features, Message, Xid};

/// What came of a run of ovs-ofctl.
pub(crate) struct Outcome {
    /// The messages it sent besides greetings, echoes and barriers: bytes, with xid 0.
    pub(crate) sent: Vec<Vec<u8>>,
    /// What it printed.
    pub(crate) stdout: String,
}

/// Runs `ovs-ofctl -O OpenFlow15 OPTIONS COMMAND unix:SOCKET ARGS`.
pub(crate) fn ofctl(
    options: &[&str],
    command: &str,
    args: &[&str],
    dump: Option<MultipartReply>,
) -> Result<Outcome> {
    let dir = tempfile::Builder::new().prefix("openflow-ofctl").tempdir()?;
    let path = dir.path().join("switch");
    let listener = UnixListener::bind(&path)?;
    let mut child = Command::new("ovs-ofctl")
        .args(["-O", "OpenFlow15", "--no-names", "-t", "20"])
        .args(options)
        .arg(command)
        .arg(format!("unix:{}", path.display()))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("ovs-ofctl must be installed: these tests compare with it")?;
    listener.set_nonblocking(true)?;
    let mut sent = Vec::new();
    // ovs-ofctl may refuse its arguments without connecting.
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                serve(stream, dump.as_ref(), &mut sent)?;
                break;
            }
            Err(_) if child.try_wait()?.is_some() => break,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(e) => return Err(e.into()),
        }
    }
    let out = child.wait_with_output()?;
    let stdout = String::from_utf8(out.stdout)?;
    let stderr = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "ovs-ofctl {command} {args:?} failed: {stdout}{stderr}");
    Ok(Outcome { sent, stdout })
}

fn reply(stream: &mut UnixStream, xid: Xid, message: &Message) -> Result<()> {
    let mut out = BytesMut::new();
    message.encode(xid, &mut out)?;
    Ok(stream.write_all(&out)?)
}

fn serve(mut stream: UnixStream, dump: Option<&MultipartReply>, sent: &mut Vec<Vec<u8>>) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    reply(&mut stream, Xid(1), &Message::Hello { versions: 1 << 6 })?;
    let mut input = BytesMut::new();
    let mut chunk = [0; 65536];
    loop {
        let n = match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(e).context("ovs-ofctl went silent"),
        };
        input.extend_from_slice(&chunk[..n]);
        while input.len() >= 4 {
            let length = usize::from(u16::from_be_bytes([input[2], input[3]]));
            if input.len() < length {
                break;
            }
            let raw = input[..length].to_vec();
            let Some((xid, message)) = Message::decode(&mut input)? else {
                bail!("whole message not decoded")
            };
            match &message {
                Message::Hello { .. } => {}
                Message::EchoRequest(data) => reply(&mut stream, xid, &Message::EchoReply(data.clone()))?,
                Message::BarrierRequest => reply(&mut stream, xid, &Message::BarrierReply)?,
                Message::FeaturesRequest => {
                    let features = Features {
                        datapath_id: 1,
                        n_buffers: 0,
                        n_tables: 254,
                        auxiliary_id: 0,
                        capabilities: 0x4f,
                    };
                    reply(&mut stream, xid, &Message::FeaturesReply(features))?;
                }
                other => {
                    let mut without_xid = raw;
                    without_xid[4..8].fill(0);
                    sent.push(without_xid);
                    match (other, dump) {
                        (Message::BundleControl(c), _) => {
                            let kind = match c.kind {
                                BundleCtrlType::OpenRequest => BundleCtrlType::OpenReply,
                                BundleCtrlType::CommitRequest => BundleCtrlType::CommitReply,
                                BundleCtrlType::CloseRequest => BundleCtrlType::CloseReply,
                                _ => BundleCtrlType::DiscardReply,
                            };
                            let answer = Message::BundleControl(BundleControl { kind, ..*c });
                            reply(&mut stream, xid, &answer)?;
                        }
                        (Message::MultipartRequest(MultipartRequest::Unknown(..)), _) => {
                            bail!("ovs-ofctl asks for {other:?}");
                        }
                        (Message::MultipartRequest(_), Some(body)) => {
                            let body = body.clone();
                            reply(&mut stream, xid, &Message::MultipartReply { more: false, body })?;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

/// A message as ovs-ofctl sends it: bytes with xid 0.
pub(crate) fn encode(message: &Message) -> Vec<u8> {
    let mut out = BytesMut::new();
    message.encode(Xid(0), &mut out).expect("must encode");
    // The inner message of a bundle has its own xid in ovs-ofctl's bytes too.
    out.to_vec()
}

/// Bytes as text, for readable differences.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .chunks(8)
        .map(|c| c.iter().map(|b| format!("{b:02x}")).collect::<String>())
        .collect::<Vec<_>>()
        .join(" ")
}
