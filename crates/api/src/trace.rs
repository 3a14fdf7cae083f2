//! W3C Trace Context, as far as a context has to be made without an SDK.

use std::fmt;
use std::str::FromStr;

/// Annotation of a watched object: `traceparent` of the span that sent the event.
pub const ANNOTATION: &str = "trace.antrea.io/traceparent";

/// A `traceparent`: which span of which trace, and whether it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Trace, not all zero.
    pub trace: [u8; 16],
    /// Span, not all zero.
    pub span: [u8; 8],
    /// Whether the caller records the trace.
    pub sampled: bool,
}

/// Not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", u8::from(self.sampled))
    }
}

impl FromStr for TraceParent {
    type Err = Malformed;

    /// Versions after 00 may add parts at the end.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut parts = text.split('-');
        let mut part = || parts.next().ok_or(Malformed);
        let [version] = bytes(part()?)?;
        let (trace, span, [flags]) = (bytes(part()?)?, bytes(part()?)?, bytes(part()?)?);
        let more = parts.next().is_some();
        if version == 0xff || (version == 0 && more) || trace == [0; 16] || span == [0; 8] {
            return Err(Malformed);
        }
        Ok(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

/// Lower-case hexadecimal digits.
fn bytes<const N: usize>(text: &str) -> Result<[u8; N], Malformed> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Malformed);
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| Malformed)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    proptest! {
        #[test]
        fn is_read_as_it_was_written(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), sampled: bool) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            let parent = TraceParent { trace, span, sampled };
            prop_assert_eq!(parent.to_string().parse(), Ok(parent));
        }

        #[test]
        fn anything_else_is_refused_without_panic(text in ".{0,60}") {
            prop_assert!(text.parse::<TraceParent>().is_err());
        }
    }

    #[test]
    fn follows_the_standard() {
        let parent: TraceParent = TEXT.parse().unwrap();
        assert_eq!((parent.trace[0], parent.span[7], parent.sampled), (0x0a, 0x31, true));
        assert_eq!(parent.to_string(), TEXT);
        assert!(!TEXT.replace("-01", "-02").parse::<TraceParent>().unwrap().sampled);
        assert!(format!("{}-more", TEXT.replacen("00", "cc", 1)).parse::<TraceParent>().is_ok());
        for bad in [
            format!("{TEXT}-more"),
            TEXT.replacen("00", "ff", 1),
            TEXT.to_uppercase(),
            TEXT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            TEXT.replace("b7ad6b7169203331", &"0".repeat(16)),
            TEXT[..50].to_owned(),
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
    }
}
