//! From when on logs are wanted.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// Not a duration or a time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("since {0:?}: want a duration such as 1h30m or 90s, or a time such as 2026-01-31T09:30:00Z")]
pub(crate) struct Malformed(String);

/// Reads a duration before `now`, in hours, minutes and seconds, or a time as RFC 3339 has it. Empty is none.
pub(crate) fn read(text: &str, now: SystemTime) -> Result<Option<SystemTime>, Malformed> {
    if text.is_empty() {
        return Ok(None);
    }
    let malformed = || Malformed(text.to_owned());
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Some(time.into()));
    }
    let (mut seconds, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(malformed)?;
        let number: u64 = rest[..end].parse().map_err(|_| malformed())?;
        let mut after = rest[end..].chars();
        let length = match after.next() {
            Some('h') => 3600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(malformed()),
        };
        seconds =
            number.checked_mul(length).and_then(|more| seconds.checked_add(more)).ok_or_else(malformed)?;
        rest = after.as_str();
    }
    // Before all time is from the beginning.
    Ok(now.checked_sub(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_durations_and_times() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let before = |seconds| Ok(Some(now - Duration::from_secs(seconds)));
        for (text, seconds) in [("1h30m", 5400), ("90s", 90), ("2h", 7200), ("1h1m1s", 3661), ("0s", 0)] {
            assert_eq!(read(text, now), before(seconds), "{text}");
        }
        assert_eq!(
            read("1970-01-01T00:01:00Z", now).unwrap(),
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60))
        );
        assert_eq!(read("", now), Ok(None));
        for wrong in ["1", "h", "1d", "1h2", "-1h", "1é", "yesterday", "99999999999999999999s"] {
            assert_eq!(read(wrong, now), Err(Malformed(wrong.to_owned())));
        }
    }
}
