//! What DNS has told, on disk for the agent's next life.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use antrea_enforce::dns::Remembered;
use antrea_enforce::pods::Attachment;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::policy::handle::{PolicyHandle, Request};
use crate::policy::notes;

/// How soon after a change what is known is on disk: of so many octets, and of twice as many after twice the time.
const EVERY: Duration = Duration::from_secs(1);
const PART: usize = 256 * 1024;

/// Addresses, and until which second of Unix time each is one.
type Until = BTreeMap<IpAddr, u64>;

/// What is kept on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Record {
    Pods {
        pods: Vec<OfPod>,
    },
    /// As agents wrote it that did not keep whom it was told.
    Names(Names),
}

/// What is kept of names.
type Names = BTreeMap<Arc<str>, Noted>;

/// What is kept of what a pod was told.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct OfPod {
    /// Container id and name of the interface in it; none where nobody knows who was told.
    attachment: Option<Arc<Attachment>>,
    names: Names,
}

/// What is kept of a name.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Noted {
    /// With the name that was asked for, and of whom.
    Asked { until: Until, asked: Option<(Arc<str>, IpAddr)> },
    /// As agents wrote it that did not ask again.
    Told(Until),
}

impl PolicyHandle {
    /// Keeps what is known on disk, for ever.
    pub async fn keep_dns(&self) {
        let (mut version, mut pause) = (0, EVERY);
        loop {
            tokio::time::sleep(pause).await;
            let (reply, answer) = oneshot::channel();
            if self.requests.send(Request::Dns(version, reply)).await.is_err() {
                return;
            }
            let Ok(Some((now, names))) = answer.await else { continue };
            let written = notes::write_much(&self.dns_file, move || record(names, unix_time())).await;
            if let Some(octets) = written {
                (version, pause) = (now, pause_after(octets));
            }
        }
    }

    /// What was known in the agent's last life.
    pub async fn dns_before(&self) -> Vec<Remembered> {
        let record: Option<Record> = notes::read(&self.dns_file).await;
        record.map(|record| recalled(record, unix_time())).unwrap_or_default()
    }
}

/// Before as much is written again.
fn pause_after(octets: usize) -> Duration {
    EVERY.saturating_mul(u32::try_from(octets.div_ceil(PART)).unwrap_or(u32::MAX).max(1))
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn record(remembered: Vec<Remembered>, now: Duration) -> Record {
    let until = |left: Duration| (now + left).as_secs() + 1;
    let mut pods: BTreeMap<Option<Arc<Attachment>>, Names> = BTreeMap::new();
    for Remembered { pod, name, addresses, asked } in remembered {
        let until = addresses.into_iter().map(|(ip, left)| (ip, until(left))).collect();
        pods.entry(pod).or_default().insert(name, Noted::Asked { until, asked });
    }
    Record::Pods { pods: pods.into_iter().map(|(attachment, names)| OfPod { attachment, names }).collect() }
}

fn recalled(record: Record, now: Duration) -> Vec<Remembered> {
    let pods = match record {
        Record::Pods { pods } => pods,
        Record::Names(names) => vec![OfPod { attachment: None, names }],
    };
    let left = |until: u64| Duration::from_secs(until).checked_sub(now);
    let remembered = |pod: Option<Arc<Attachment>>, name, noted| {
        let (all, asked) = match noted {
            Noted::Asked { until, asked } => (until, asked),
            Noted::Told(until) => (until, None),
        };
        let addresses = all.into_iter().filter_map(|(ip, until)| Some((ip, left(until)?))).collect();
        Remembered { pod, name, addresses, asked }
    };
    pods.into_iter()
        .flat_map(|OfPod { attachment, names }| {
            names.into_iter().map(move |(name, noted)| remembered(attachment.clone(), name, noted))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_there_is_the_less_often_it_is_written() {
        let pauses = [0, 1, PART, PART + 1, 10 * PART].map(|octets| pause_after(octets).as_secs());
        assert_eq!(pauses, [1, 1, 1, 2, 10]);
    }

    #[test]
    fn what_was_known_is_known_again_for_the_time_that_is_left() {
        let now = Duration::from_millis(1_000_400);
        let [a, b]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let pod = Arc::new(("c1".to_owned(), "eth0".to_owned()));
        let names = vec![Remembered {
            pod: Some(pod.clone()),
            name: "a.example".into(),
            addresses: vec![(a, Duration::from_secs(30)), (b, Duration::from_secs(3))],
            asked: Some(("www.example".into(), b)),
        }];
        let written = record(names.clone(), now);
        let Record::Pods { pods } = &written else { panic!("{written:?}") };
        // Whole seconds, rounded up: nothing goes early.
        let until = [(a, 1031), (b, 1004)].into();
        let noted = Noted::Asked { until, asked: names[0].asked.clone() };
        assert_eq!(
            pods[..],
            [OfPod { attachment: Some(pod.clone()), names: [("a.example".into(), noted)].into() }]
        );
        let text = serde_json::to_string(&written).unwrap();
        let read: Record = serde_json::from_str(&text).unwrap();
        let later = recalled(read, now + Duration::from_secs(10));
        assert_eq!(later[0].addresses, [(a, Duration::from_millis(20_600))]);
        assert_eq!((&later[0].pod, &later[0].asked), (&Some(pod), &names[0].asked));
        // As it was written before it was asked again, and before it was kept whom it was told.
        let before = [
            "{\"a.example\": {\"192.0.2.1\": 1031}}",
            "{\"a.example\": {\"until\": {\"192.0.2.1\": 1031}, \"asked\": [\"www.example\", \"2001:db8::1\"]}}",
        ];
        for (text, asked) in before.into_iter().zip([&None, &names[0].asked]) {
            let old = recalled(serde_json::from_str(text).unwrap(), now);
            assert_eq!((old[0].addresses.len(), &old[0].asked, &old[0].pod), (1, asked, &None));
        }
        assert!(recalled(serde_json::from_str("{}").unwrap(), now).is_empty());
    }
}
