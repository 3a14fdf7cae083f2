//! A gate in the way between an agent and its bridge: OpenFlow passes, or waits, in each direction.
//!
//! The agent under test is given a run directory in which `db.sock` is the real one and `br-int.mgmt` is this
//! gate's. What waits is not lost: opening a direction lets it through.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// What a direction lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lets {
    All,
    Nothing,
    /// All before the answer to a bundle's commit.
    NoCommitted,
}

/// One direction of the gate.
#[derive(Debug)]
pub struct Way {
    lets: watch::Sender<Lets>,
    waiting: watch::Sender<bool>,
}

impl Default for Way {
    fn default() -> Self {
        Self { lets: watch::Sender::new(Lets::All), waiting: watch::Sender::new(false) }
    }
}

impl Way {
    /// From now on messages wait.
    pub fn close(&self) {
        self.lets.send_replace(Lets::Nothing);
    }

    /// Messages wait from the next answer to a commit on.
    pub fn close_at_commit(&self) {
        self.lets.send_replace(Lets::NoCommitted);
    }

    /// Lets through what waits and what comes.
    pub fn open(&self) {
        self.lets.send_replace(Lets::All);
        self.waiting.send_replace(false);
    }

    /// Whether messages wait.
    pub fn has_waiting(&self) -> bool {
        *self.waiting.borrow()
    }

    async fn carry(
        &self,
        mut from: tokio::net::unix::OwnedReadHalf,
        mut to: tokio::net::unix::OwnedWriteHalf,
    ) {
        let mut lets = self.lets.subscribe();
        while let Ok(message) = read(&mut from).await {
            let passes = |lets: &Lets| match lets {
                Lets::All => true,
                Lets::Nothing => false,
                Lets::NoCommitted => !is_commit_reply(&message),
            };
            if !passes(&lets.borrow()) {
                self.waiting.send_replace(true);
            }
            if lets.wait_for(passes).await.is_err() || to.write_all(&message).await.is_err() {
                return;
            }
        }
    }
}

/// Reads one message; its length is in octets 2 and 3 (OpenFlow 1.5.1 §7.1.1).
async fn read(from: &mut tokio::net::unix::OwnedReadHalf) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; 8];
    from.read_exact(&mut message).await?;
    let length = u16::from_be_bytes([message[2], message[3]]);
    message.resize(usize::from(length).max(8), 0);
    from.read_exact(&mut message[8..]).await?;
    Ok(message)
}

/// `OFPT_BUNDLE_CONTROL` with `OFPBCT_COMMIT_REPLY` (OpenFlow 1.5.1 §7.3.9).
fn is_commit_reply(message: &[u8]) -> bool {
    const BUNDLE_CONTROL: u8 = 33;
    const COMMIT_REPLY: [u8; 2] = [0, 5];
    message[1] == BUNDLE_CONTROL && message.get(12..14) == Some(&COMMIT_REPLY)
}

/// A running gate; its listener ends with it.
pub struct Gate {
    /// From the agent to the bridge.
    pub requests: std::sync::Arc<Way>,
    /// From the bridge to the agent.
    pub answers: std::sync::Arc<Way>,
    dir: PathBuf,
    listener: tokio::task::JoinHandle<()>,
}

impl Gate {
    /// Makes a run directory at `dir` with a gate before the `bridge` of the Open vSwitch that runs in `real`.
    pub fn start(dir: &Path, real: &Path, bridge: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        std::os::unix::fs::symlink(real.join("db.sock"), dir.join("db.sock")).unwrap();
        let name = format!("{bridge}.mgmt");
        let listener = UnixListener::bind(dir.join(&name)).unwrap();
        let (requests, answers) = <(std::sync::Arc<Way>, std::sync::Arc<Way>)>::default();
        let (there, back) = (requests.clone(), answers.clone());
        let real = real.join(&name);
        let listener = tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                // The bridge may not be there yet: closing makes the agent try again.
                let Ok(bridge) = UnixStream::connect(&real).await else { continue };
                let (there, back) = (there.clone(), back.clone());
                tokio::spawn(async move {
                    let (agent_read, agent_write) = agent.into_split();
                    let (bridge_read, bridge_write) = bridge.into_split();
                    tokio::select! {
                        () = there.carry(agent_read, bridge_write) => {}
                        () = back.carry(bridge_read, agent_write) => {}
                    }
                });
            }
        });
        Self { requests, answers, dir: dir.to_owned(), listener }
    }

    /// The run directory to give to the agent.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
