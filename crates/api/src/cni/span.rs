//! The span of one execution of the plugin, which the agent exports on its behalf.
//!
//! The plugin lives for some milliseconds and is to stay small, so it has no exporter. It makes the ids and
//! says in the call's metadata when it began; an agent that exports spans does the rest, another ignores it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::metadata::MetadataMap;

use crate::trace::TraceParent;

/// W3C's key: the plugin's own span, which is the parent of the agent's.
const OWN: &str = "traceparent";
/// `traceparent` of the plugin's caller.
const PARENT: &str = "antrea-cni-parent";
/// Start of the plugin in nanoseconds since 1970.
const START: &str = "antrea-cni-start";

/// The plugin's part of a trace, which the agent exports for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PluginSpan {
    /// Its ids. Without a parent the agent decides whether the trace is recorded.
    pub own: TraceParent,
    /// What the runtime said in `TRACEPARENT`.
    pub parent: Option<TraceParent>,
    /// When the plugin began.
    pub start: SystemTime,
}

impl PluginSpan {
    /// A span with ids of `random`, in the trace that `inherited`, the value of `TRACEPARENT`, names, or else
    /// in a new one.
    pub fn begin(start: SystemTime, inherited: Option<&str>, random: [u8; 24]) -> Self {
        let parent: Option<TraceParent> = inherited.and_then(|text| text.parse().ok());
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        trace.copy_from_slice(&random[..16]);
        span.copy_from_slice(&random[16..]);
        let trace = parent.map_or(trace, |parent| parent.trace);
        let own = TraceParent { trace, span, sampled: parent.is_none_or(|parent| parent.sampled) };
        Self { own, parent, start }
    }

    /// Puts the span into a call's metadata.
    pub fn write(&self, metadata: &mut MetadataMap) {
        let start = self.start.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mut put = |key: &'static str, value: String| {
            if let Ok(value) = value.parse() {
                metadata.insert(key, value);
            }
        };
        put(OWN, self.own.to_string());
        put(START, start.to_string());
        if let Some(parent) = self.parent {
            put(PARENT, parent.to_string());
        }
    }

    /// Reads a call's metadata; none if it holds no span of a plugin.
    pub fn read(metadata: &MetadataMap) -> Option<Self> {
        let get = |key| metadata.get(key).and_then(|value| value.to_str().ok());
        let nanoseconds = get(START)?.parse().ok()?;
        let start = UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds))?;
        let parent = get(PARENT).and_then(|text| text.parse().ok());
        Some(Self { own: get(OWN)?.parse().ok()?, parent, start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn random() -> [u8; 24] {
        std::array::from_fn(|at| at as u8 + 1)
    }

    #[test]
    fn crosses_the_call() {
        let start = UNIX_EPOCH + Duration::from_nanos(1_795_000_000_123_456_789);
        for inherited in [None, Some(CALLER)] {
            let span = PluginSpan::begin(start, inherited, random());
            let mut metadata = MetadataMap::new();
            span.write(&mut metadata);
            assert_eq!(PluginSpan::read(&metadata), Some(span));
        }
    }

    #[test]
    fn goes_on_with_the_callers_trace() {
        let span = PluginSpan::begin(UNIX_EPOCH, Some(CALLER), random());
        assert_eq!(span.parent.unwrap().to_string(), CALLER);
        assert_eq!((span.own.trace, span.own.sampled), (span.parent.unwrap().trace, false));
        assert_eq!(span.own.span, [17, 18, 19, 20, 21, 22, 23, 24]);
        for none in [None, Some(""), Some("nonsense")] {
            let span = PluginSpan::begin(UNIX_EPOCH, none, random());
            assert_eq!((span.parent, span.own.trace[0], span.own.sampled), (None, 1, true));
        }
    }

    #[test]
    fn what_makes_no_sense_is_no_span() {
        let span = PluginSpan::begin(UNIX_EPOCH, None, random());
        assert_eq!(PluginSpan::read(&MetadataMap::new()), None);
        for (key, value) in [(OWN, "x"), (START, "x"), (START, "-1"), (START, "99999999999999999999999")] {
            let mut metadata = MetadataMap::new();
            span.write(&mut metadata);
            metadata.insert(key, value.parse().unwrap());
            assert_eq!(PluginSpan::read(&metadata), None, "{key}: {value}");
        }
    }
}
