//! Connections that the bridge's tracker knows, as ovs-vswitchd tells of them (`dpctl/dump-conntrack`; the format is that of
//! `ct_dpif_format_entry`): the same on both datapaths.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use antrea_flows::field::Source;
use antrea_flows::policy::Protocol;
use ovs::ctl::{self, CtlError};

use crate::ovs::bridge::Datapath;

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    pub protocol: Protocol,
    /// From and to where its first packet went; ports are 0 where there are none.
    pub original: (SocketAddr, SocketAddr),
    /// The same of its answers.
    pub reply: (SocketAddr, SocketAddr),
    /// ICMP type and code of its first packet.
    pub icmp: Option<(u8, u8)>,
    /// It was begun by what came from the host.
    pub from_host: bool,
}

/// Connections of a zone, without those of protocols that policies do not know and those that are closed. They are read
/// piece by piece: a pod can begin any number.
#[derive(Debug)]
pub struct TrackedIn(ctl::Lines);

impl TrackedIn {
    /// Those of this zone.
    ///
    /// # Errors
    /// ovs-vswitchd is away.
    pub async fn zone(run_dir: &Path, datapath: Datapath, zone: u16) -> Result<Self, CtlError> {
        let zone = format!("zone={zone}");
        ctl::lines(run_dir, "dpctl/dump-conntrack", &[datapath.dpif(), &zone]).await.map(Self)
    }

    /// Some thousands at most; none after the last.
    ///
    /// # Errors
    /// ovs-vswitchd went away or refuses.
    pub async fn next(&mut self) -> Result<Option<Vec<Tracked>>, CtlError> {
        let lines = self.0.next().await?;
        Ok(lines.map(|lines| lines.iter().filter_map(|line| read(line)).collect()))
    }
}

fn read(line: &str) -> Option<Tracked> {
    let (protocol, rest) = line.split_once(',')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        "icmp" | "icmpv6" => Protocol::Icmp,
        _ => return None,
    };
    let original = rest.split_once("orig=(")?.1.split_once(')')?.0;
    let (reply, rest) = rest.split_once("reply=(")?.1.split_once(')')?;
    // Closed by both ends, or by a reset: what comes next is a SYN, or nobody's.
    if ["state=TIME_WAIT", "state=CLOSED", "state=CLOSE)"].iter().any(|state| rest.contains(state)) {
        return None;
    }
    let mark: u32 = field(rest, "mark=").and_then(|mark| mark.parse().ok()).unwrap_or_default();
    let number = |name| field(original, name).and_then(|text| text.parse().ok());
    Some(Tracked {
        protocol,
        original: ends(original)?,
        reply: ends(reply)?,
        icmp: number("type=").zip(number("code=")),
        from_host: mark & 0xf == Source::Gateway as u32,
    })
}

/// The value of a field of a list that commas separate.
fn field<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    list.split([',', ')']).find_map(|part| part.strip_prefix(name))
}

fn ends(tuple: &str) -> Option<(SocketAddr, SocketAddr)> {
    let ip = |name| field(tuple, name)?.parse::<IpAddr>().ok();
    let port = |name| field(tuple, name).map_or(Some(0), |port| port.parse().ok());
    Some((SocketAddr::new(ip("src=")?, port("sport=")?), SocketAddr::new(ip("dst=")?, port("dport=")?)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const OF_TCP: &str = "tcp,orig=(src=10.10.1.2,dst=10.10.1.3,sport=40012,dport=8080),reply=(src=10.10.1.3,\
                          dst=10.10.1.2,sport=8080,dport=40012),zone=65520,mark=3,labels=0x100000002,protoinfo=(state=ESTABLISHED)";

    /// A pod that begins more connections than can be kept keeps none from being looked at.
    #[tokio::test]
    async fn any_number_of_connections_is_read() {
        const COUNT: usize = 250_000;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ovs-vswitchd.pid"), "42").unwrap();
        let listener = tokio::net::UnixListener::bind(folder.path().join("ovs-vswitchd.42.ctl")).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let asked = stream.read(&mut [0; 1024]).await.unwrap();
            assert!(asked > 0);
            let lines = [OF_TCP, "\\n"].concat().repeat(1000);
            stream.write_all(b"{\"id\":0,\"result\":\"").await.unwrap();
            for _ in 0..COUNT / 1000 {
                stream.write_all(lines.as_bytes()).await.unwrap();
            }
            stream.write_all(b"\",\"error\":null}").await.unwrap();
        });
        let mut tracked = TrackedIn::zone(folder.path(), Datapath::Userspace, 65520).await.unwrap();
        let (mut count, mut most) = (0, 0);
        while let Some(some) = tracked.next().await.unwrap() {
            most = most.max(some.len());
            count += some.len();
        }
        assert_eq!(count, COUNT);
        assert!(most < 4000, "{most} at a time");
        server.await.unwrap();
    }

    #[test]
    fn reads_what_open_vswitch_writes() {
        let tcp = OF_TCP;
        let read_tcp = read(tcp).unwrap();
        assert_eq!(
            read_tcp.original,
            ("10.10.1.2:40012".parse().unwrap(), "10.10.1.3:8080".parse().unwrap())
        );
        assert_eq!(read_tcp.reply, ("10.10.1.3:8080".parse().unwrap(), "10.10.1.2:40012".parse().unwrap()));
        assert_eq!((read_tcp.protocol, read_tcp.icmp, read_tcp.from_host), (Protocol::Tcp, None, false));
        assert!(
            read(&tcp.replace("mark=3", "mark=18")).unwrap().from_host,
            "other bits of the mark do not matter"
        );
        for over in ["TIME_WAIT", "CLOSED", "CLOSE"] {
            assert_eq!(read(&tcp.replace("ESTABLISHED", over)), None, "{over}");
        }
        assert!(read(&tcp.replace("ESTABLISHED", "CLOSE_WAIT")).is_some(), "one end may still send");
        let udp = "udp,orig=(src=fd00::2,dst=fd00::3,sport=5,dport=53),reply=(src=fd00::3,dst=fd00::2,sport=53,dport=5),\
                   zone=65510";
        let read_udp = read(udp).unwrap();
        assert_eq!(read_udp.original.1, "[fd00::3]:53".parse().unwrap());
        assert!(!read_udp.from_host);
        let icmp = "icmp,orig=(src=10.10.1.2,dst=10.10.1.3,id=7,type=8,code=0),reply=(src=10.10.1.3,dst=10.10.1.2,id=7,\
                    type=0,code=0),zone=65520,mark=2";
        let read_icmp = read(icmp).unwrap();
        assert_eq!((read_icmp.icmp, read_icmp.from_host), (Some((8, 0)), true));
        assert_eq!(read_icmp.original.0.port(), 0);
        for wrong in
            ["", "tcp", "gre,orig=(src=10.0.0.1,dst=10.0.0.2)", "tcp,orig=(src=x,dst=y),reply=(src=x,dst=y)"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
