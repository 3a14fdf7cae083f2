//! What is told of a capture, and when somebody else than its agent has to tell it.

use std::time::Duration;

use antrea_crds::PacketCapture;
use antrea_crds::packet_capture::{COMPLETE, Condition, DEFAULT_TIMEOUT, STARTED, Status, UPLOADED};
use jiff::Timestamp;

/// How long nobody may have taken up a capture.
pub const UNTAKEN: Duration = Duration::from_secs(15);

/// How long after its time a capture may not have been ended.
pub const SILENT: Duration = Duration::from_secs(30);

/// How a capture ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With as many packets as were asked for.
    Succeeded,
    /// With fewer, when its time was over.
    TimedOut,
    /// With fewer, as the file may not be larger.
    Full,
    /// Without a file, for this reason.
    Failed(String),
}

impl Outcome {
    /// The reason of the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Succeeded => "Succeed",
            Self::TimedOut => "Timeout",
            Self::Full => "Full",
            Self::Failed(_) => "Failed",
        }
    }
}

/// Where the upload of a file stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upload {
    /// It is being sent.
    Running,
    /// It is there.
    Succeeded(String),
    /// It is not, for this reason.
    Failed(String),
}

/// What was told, with where the upload stands.
pub fn uploaded(told: &Status, upload: &Upload, now: Timestamp) -> Status {
    let (is, reason, message) = match upload {
        Upload::Running => (false, "Uploading", ""),
        Upload::Succeeded(url) => (true, "Succeed", &url[..]),
        Upload::Failed(why) => (false, "Failed", &why[..]),
    };
    let mut status = told.clone();
    status.conditions.retain(|condition| condition.type_ != UPLOADED);
    status.conditions.push(condition(Some(told), UPLOADED, is, reason, message, now));
    status
}

/// Whether a file is being sent by what was told.
pub fn is_uploading(told: &Status) -> bool {
    told.condition(UPLOADED).is_some_and(|condition| condition.reason == "Uploading")
}

/// Where a capture stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Others have to end first; in words.
    Waiting(String),
    /// So many packets have been captured.
    Running(u32),
    /// It is over, with so many packets, and where they are.
    Ended { number: u32, file: Option<String>, outcome: Outcome },
}

fn condition(
    known: Option<&Status>,
    type_: &str,
    is: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Condition {
    let status = if is { "True" } else { "False" };
    let before = known.and_then(|known| known.condition(type_));
    let since = before.filter(|before| before.status == status);
    let since = since.and_then(|before| before.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        last_transition_time: Some(since.unwrap_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())),
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

/// What is written of a capture that stands there, of which `known` was written before.
pub fn status(known: Option<&Status>, stage: &Stage, now: Timestamp) -> Status {
    let told = |type_, is, reason, message: &str| condition(known, type_, is, reason, message, now);
    match stage {
        Stage::Waiting(message) => {
            Status { conditions: vec![told(STARTED, false, "Pending", message)], ..Status::default() }
        }
        Stage::Running(number) => Status {
            number_captured: Some((*number).into()),
            file_path: None,
            conditions: vec![told(STARTED, true, "Started", ""), told(COMPLETE, false, "Capturing", "")],
        },
        Stage::Ended { number, file, outcome } => {
            let message = match outcome {
                Outcome::Succeeded => String::new(),
                Outcome::TimedOut => format!("there were only {number} such packets in its time"),
                Outcome::Full => format!("{number} packets fill the largest file that there may be"),
                Outcome::Failed(reason) => reason.clone(),
            };
            let started = if known.is_some_and(|known| known.is(STARTED)) || file.is_some() {
                told(STARTED, true, "Started", "")
            } else {
                told(STARTED, false, "Failed", &message)
            };
            Status {
                number_captured: Some((*number).into()),
                file_path: file.clone(),
                conditions: vec![started, told(COMPLETE, true, outcome.reason(), &message)],
            }
        }
    }
}

/// When a capture has failed because no agent has said anything of it for too long. None: never, as things are.
pub fn deadline(capture: &PacketCapture) -> Option<(Timestamp, &'static str)> {
    let known = capture.status.as_ref();
    if known.is_some_and(|known| known.is(COMPLETE)) {
        return None;
    }
    match known.and_then(|known| known.condition(STARTED)) {
        None => {
            let created = capture.metadata.creation_timestamp.as_ref()?.0;
            Some((created.saturating_add(UNTAKEN).ok()?, "does not take it up"))
        }
        // It waits for its turn.
        Some(started) if started.status != "True" => None,
        Some(started) => {
            let since: Timestamp = started.last_transition_time.as_ref()?.parse().ok()?;
            let limit = u64::try_from(capture.spec.timeout.unwrap_or(DEFAULT_TIMEOUT)).unwrap_or_default();
            Some((
                since.saturating_add(Duration::from_secs(limit) + SILENT).ok()?,
                "has not ended it in time",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use antrea_crds::PacketCaptureSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn told(status: &Status) -> Vec<String> {
        let line = |c: &Condition| format!("{} {} {}", c.type_, c.status, c.reason);
        status.conditions.iter().map(line).collect()
    }

    #[test]
    fn conditions_keep_their_time_until_they_turn() {
        let (early, late) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:09Z"));
        let waiting = status(None, &Stage::Waiting("others run".into()), early);
        assert_eq!(told(&waiting), ["PacketCaptureStarted False Pending"]);
        let running = status(Some(&waiting), &Stage::Running(0), early);
        let more = status(Some(&running), &Stage::Running(3), late);
        assert_eq!(more.number_captured, Some(3));
        assert_eq!(more.conditions, running.conditions);
        let file = Some("antrea-agent-x:/f".to_owned());
        let ended = Stage::Ended { number: 5, file: file.clone(), outcome: Outcome::Succeeded };
        let ended = status(Some(&more), &ended, late);
        assert_eq!(told(&ended), ["PacketCaptureStarted True Started", "PacketCaptureComplete True Succeed"]);
        assert_eq!(ended.conditions[0].last_transition_time.as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!(ended.conditions[1].last_transition_time.as_deref(), Some("2026-01-01T00:00:09Z"));
        assert_eq!(ended.file_path, file);
        let failed = Stage::Ended { number: 0, file: None, outcome: Outcome::Failed("no such Pod".into()) };
        let failed = status(None, &failed, late);
        assert_eq!(told(&failed), ["PacketCaptureStarted False Failed", "PacketCaptureComplete True Failed"]);
        assert_eq!(failed.conditions[1].message, "no such Pod");
        let sending = uploaded(&ended, &Upload::Running, late);
        assert!(is_uploading(&sending) && !is_uploading(&ended));
        assert_eq!(told(&sending)[2..], ["PacketCaptureFileUploaded False Uploading"]);
        let sent = uploaded(&sending, &Upload::Succeeded("sftp://h:22/c.pcapng".into()), late);
        assert_eq!(told(&sent)[2..], ["PacketCaptureFileUploaded True Succeed"]);
        assert_eq!(sent.conditions[2].message, "sftp://h:22/c.pcapng");
        let lost = uploaded(&sending, &Upload::Failed("no".into()), late);
        assert_eq!(told(&lost)[2..], ["PacketCaptureFileUploaded False Failed"]);
        assert_eq!(lost.conditions.len(), 3);
    }

    #[test]
    fn silence_has_an_end() {
        let mut capture = PacketCapture::new("c", PacketCaptureSpec::default());
        let begin = at("2026-01-01T00:00:00Z");
        assert_eq!(deadline(&capture), None);
        capture.metadata.creation_timestamp = Some(Time(begin));
        assert_eq!(deadline(&capture), Some((at("2026-01-01T00:00:15Z"), "does not take it up")));
        capture.status = Some(status(None, &Stage::Waiting(String::new()), begin));
        assert_eq!(deadline(&capture), None);
        capture.status = Some(status(None, &Stage::Running(1), begin));
        capture.spec.timeout = Some(10);
        assert_eq!(deadline(&capture), Some((at("2026-01-01T00:00:40Z"), "has not ended it in time")));
        let ended = Stage::Ended { number: 1, file: None, outcome: Outcome::TimedOut };
        capture.status = Some(status(None, &ended, begin));
        assert_eq!(deadline(&capture), None);
    }
}
