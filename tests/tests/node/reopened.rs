//! A port that is used again carries nothing that is forbidden by now: the connection tracker takes the SYN for a packet of
//! the connection that had the same addresses and ports before.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener};
use std::time::Duration;

use antrea_tests::lab::{Lab, eventually, sh};
use nix::sched::{CloneFlags, setns};
use serde_json::json;
use socket2::{Domain, Socket, Type};

const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 7000;
const SOURCE: u16 = 40_000;

/// Runs in a namespace.
fn inside<T: Send + 'static>(
    netns: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let file = File::open(format!("/run/netns/{netns}")).unwrap();
    std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// Connects from a port and lets the other end answer; the client closes first. Whether it came about.
fn connects(netns: &str, source: u16, to: IpAddr) -> bool {
    let tried = inside(netns, move || -> std::io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], source)).into())?;
        socket.connect_timeout(&SocketAddr::from((to, PORT)).into(), Duration::from_millis(700))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut socket = std::net::TcpStream::from(socket);
        socket.write_all(b"x")?;
        socket.shutdown(Shutdown::Write)?;
        socket.read_to_end(&mut Vec::new())?;
        Ok(())
    });
    tried.join().unwrap().is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_used_again_carries_nothing_that_is_forbidden_by_now() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    lab.put_pod(0, "client", &[("role", "client")], None);
    let client = lab.add_pod(0, "client");
    let servers = [0, 1].map(|node| lab.add_pod(node, &format!("server{node}")));
    // A client may use a port again that its own side still remembers, as ports that failed are used again.
    sh(&format!("ip netns exec {} sysctl -qw net.ipv4.tcp_tw_reuse=1", client.netns));
    for server in &servers {
        let bound = inside(&server.netns, || TcpListener::bind(("0.0.0.0", PORT)).unwrap());
        let listener = bound.join().unwrap();
        // It ends with the test's process: nobody connects any more.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
    }
    for server in &servers {
        eventually("a connection", LIMIT, || connects(&client.netns, 0, server.ip)).await;
        assert!(connects(&client.netns, SOURCE, server.ip), "from the port");
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(connects(&client.netns, SOURCE, server.ip), "from the same port again");
    }
    lab.put_policy(
        "quiet",
        &json!({"podSelector": {"matchLabels": {"role": "client"}}, "policyTypes": ["Egress"]}),
    );
    for server in &servers {
        eventually("the client is isolated", LIMIT, || !connects(&client.netns, 0, server.ip)).await;
        for _ in 0..3 {
            assert!(!connects(&client.netns, SOURCE, server.ip), "the port is used again");
        }
    }
}
