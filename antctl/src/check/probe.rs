//! `antctl check probe`: what runs in the Pods of `antctl check installation`. It answers whoever connects, asks others
//! again and again, and tells in its log whether they answered. Logs come by way of the kubelet, whatever the Pod network does.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(1);

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(500);

/// What is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Probe {
    /// Port on which to answer.
    #[arg(long)]
    listen: Option<u16>,
    /// Whom to ask, NAME=ADDRESS:PORT.
    #[arg(long = "target", value_parser = target)]
    targets: Vec<(String, String)>,
}

fn target(text: &str) -> Result<(String, String), String> {
    let (name, address) = text.split_once('=').ok_or("such as NAME=ADDRESS:PORT")?;
    Ok((name.to_owned(), address.to_owned()))
}

/// One line of a log: who was asked, and why there was no answer. Whoever answered has no reason.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) round: u64,
    pub(crate) unanswered: BTreeMap<String, String>,
    pub(crate) answered: Vec<String>,
}

/// Answers and asks for ever.
///
/// # Errors
/// The port is taken, or nobody reads what is told.
pub(crate) async fn run(probe: &Probe) -> anyhow::Result<String> {
    if let Some(port) = probe.listen {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = match TcpListener::bind(any).await {
            Ok(listener) => listener,
            // A kernel without IPv6.
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.context(port)?,
        };
        tokio::spawn(answer(listener));
    }
    for number in 1.. {
        let round = round(number, &probe.targets).await;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&round)?).and_then(|()| out.flush())?;
        drop(out);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(String::new())
}

async fn answer(listener: TcpListener) {
    loop {
        // Too many at once: the next may be taken.
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        tokio::spawn(async move {
            let _ = tokio::time::timeout(LIMIT, stream.write_all(b"here\n")).await;
        });
    }
}

async fn round(number: u64, targets: &[(String, String)]) -> Round {
    let mut asked = JoinSet::new();
    for (name, address) in targets.iter().cloned() {
        asked.spawn(async move { (name, ask(&address).await) });
    }
    let mut round = Round { round: number, ..Round::default() };
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((name, Ok(()))) => round.answered.push(name),
            Ok((name, Err(reason))) => drop(round.unanswered.insert(name, reason)),
            Err(_) => {}
        }
    }
    round.answered.sort();
    round
}

async fn ask(address: &str) -> Result<(), String> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut first = [0; 1];
        stream.read_exact(&mut first).await
    };
    match tokio::time::timeout(LIMIT, asking).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer in {LIMIT:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_answers_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap().to_string();
        tokio::spawn(answer(listener));
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let targets = [
            target(&format!("there={there}")).unwrap(),
            ("silent".to_owned(), silent.local_addr().unwrap().to_string()),
            ("refused".to_owned(), "127.0.0.1:1".to_owned()),
        ];
        let round = round(7, &targets).await;
        assert_eq!(round.answered, ["there"]);
        assert_eq!(round.unanswered.keys().collect::<Vec<_>>(), ["refused", "silent"]);
        assert_eq!(round.unanswered["silent"], "no answer in 1s");
        let line = serde_json::to_string(&round).unwrap();
        assert_eq!(serde_json::from_str::<Round>(&line).unwrap(), round);
        assert!(target("nobody").is_err());
    }
}
