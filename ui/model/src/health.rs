//! Is it well?

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// Three heartbeats. The operator counts an agent as silent after the same time.
const STALE_AFTER: SignedDuration = SignedDuration::from_secs(180);

/// A verdict, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Verdict {
    /// It says that it is well, and said so lately.
    Healthy,
    /// It does its work, with something wrong.
    Degraded,
    /// It has not said anything yet, or nothing that can be relied on.
    Unknown,
    /// It has gone silent.
    Stale,
    /// It says that it does not do its work.
    Unhealthy,
}

/// A verdict with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// In one word.
    pub verdict: Verdict,
    /// Why, for people; empty where all is well.
    pub reason: String,
}

/// A condition as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Name.
    #[serde(rename = "type")]
    pub type_: String,
    /// "True", "False" or "Unknown".
    pub status: String,
    /// Cause in CamelCase, may be empty.
    pub reason: String,
    /// Cause for people, may be empty.
    pub message: String,
}

impl Condition {
    /// What is wrong, as far as it says.
    pub(crate) fn cause(&self) -> String {
        match (self.reason.as_str(), self.message.as_str()) {
            ("", "") => format!("{} is {}", self.type_, self.status),
            (text, "") | ("", text) => text.to_owned(),
            (reason, message) => format!("{reason}: {message}"),
        }
    }
}

impl Health {
    /// A verdict and why.
    pub(crate) fn new(verdict: Verdict, reason: &str) -> Self {
        Self { verdict, reason: reason.to_owned() }
    }

    /// The same, saying whose it is.
    pub(crate) fn told_of(&self, whose: &str) -> Self {
        Self::new(self.verdict, &format!("{whose}: {}", self.reason))
    }

    /// The verdict on a component that has the conditions `all`, of which `main` speaks for it as a whole.
    pub(crate) fn judge(main: &str, all: &[Condition], heartbeat: Option<Timestamp>, now: Timestamp) -> Self {
        let (Some(main), Some(heartbeat)) = (all.iter().find(|one| one.type_ == main), heartbeat) else {
            return Self::new(Verdict::Unknown, "no heartbeat yet");
        };
        let age = now.duration_since(heartbeat);
        if age > STALE_AFTER {
            let last =
                if main.status == "True" { String::new() } else { format!("; last: {}", main.cause()) };
            return Self::new(Verdict::Stale, &format!("no heartbeat for {}{last}", words(age)));
        }
        // It would pass for fresh for as long as its clock is ahead.
        if age < -STALE_AFTER {
            let text = format!("its heartbeat is {} in the future: clocks differ", words(-age));
            return Self::new(Verdict::Unknown, &text);
        }
        match main.status.as_str() {
            "True" => match all.iter().find(|one| one.status != "True") {
                None => Self::new(Verdict::Healthy, ""),
                Some(other) => {
                    let cause = other.cause();
                    let named = cause.starts_with(&other.type_);
                    let text = if named { cause } else { format!("{}: {cause}", other.type_) };
                    Self::new(Verdict::Degraded, &text)
                }
            },
            "False" => Self::new(Verdict::Unhealthy, &main.cause()),
            _ => Self::new(Verdict::Unknown, &main.cause()),
        }
    }
}

/// A time in its largest whole unit.
fn words(time: SignedDuration) -> String {
    match time.as_secs() {
        secs @ ..120 => format!("{secs} s"),
        secs @ 120..7_200 => format!("{} min", secs / 60),
        secs @ 7_200..172_800 => format!("{} h", secs / 3_600),
        secs => format!("{} d", secs / 86_400),
    }
}
