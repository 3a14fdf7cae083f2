//! Cuts a byte stream into JSON texts. Performs no I/O and no parsing: it follows nesting, strings and escapes,
//! so messages may be split and joined by reads in any way.

use bytes::{Bytes, BytesMut};

/// Default bound of one message: a full dump of a large database stays far below.
pub const MAX_MESSAGE: usize = 64 << 20;

/// The stream cannot be a sequence of JSON objects; the connection must be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message does not begin with `{`.
    #[error("byte {0:#04x} where a message has to begin with an opening brace")]
    Start(u8),
    /// A message is longer than the bound, in bytes.
    #[error("message longer than {0} bytes")]
    TooLong(usize),
}

/// Incremental JSON framer. Every byte is looked at once.
#[derive(Debug)]
pub struct Framer {
    buf: BytesMut,
    max: usize,
    scanned: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Framer {
    /// A framer that refuses messages longer than `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { buf: BytesMut::new(), max, scanned: 0, depth: 0, in_string: false, escaped: false }
    }

    /// Buffer to append received bytes to (as `AsyncReadExt::read_buf` wants it).
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// The next complete message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`]; the framer must not be used further.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.depth == 0 {
            let blank = self.buf.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let _ = self.buf.split_to(blank);
            match self.buf.first() {
                None => return Ok(None),
                Some(b'{') => {}
                Some(&other) => return Err(FrameError::Start(other)),
            }
        }
        while let Some(&byte) = self.buf.get(self.scanned) {
            self.scanned += 1;
            if self.in_string {
                if self.escaped {
                    self.escaped = false;
                } else if byte == b'\\' {
                    self.escaped = true;
                } else if byte == b'"' {
                    self.in_string = false;
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    // The opening brace was counted, so a closing one finds a depth of at least one.
                    self.depth -= 1;
                    if self.depth == 0 {
                        let message = self.buf.split_to(self.scanned).freeze();
                        self.scanned = 0;
                        return if message.len() > self.max {
                            Err(FrameError::TooLong(self.max))
                        } else {
                            Ok(Some(message))
                        };
                    }
                }
                _ => {}
            }
        }
        if self.scanned > self.max { Err(FrameError::TooLong(self.max)) } else { Ok(None) }
    }
}

impl Default for Framer {
    fn default() -> Self {
        Self::new(MAX_MESSAGE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(framer: &mut Framer) -> Vec<String> {
        std::iter::from_fn(|| framer.next_message().unwrap())
            .map(|message| String::from_utf8(message.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn braces_and_quotes_inside_strings_do_not_count() {
        let text = r#"{"a":"}]\"}\\","b":["\\\"{"]}"#;
        let mut framer = Framer::default();
        framer.push(text.as_bytes());
        framer.push(b"\n ");
        framer.push(br#"{"c":1}{"d""#);
        assert_eq!(all(&mut framer), [text, r#"{"c":1}"#]);
        assert!(framer.depth > 0);
        framer.push(b":2}");
        assert_eq!(all(&mut framer), [r#"{"d":2}"#]);
    }

    #[test]
    fn refuses_what_is_not_an_object() {
        let mut framer = Framer::default();
        framer.push(b" [1]");
        assert_eq!(framer.next_message(), Err(FrameError::Start(b'[')));
    }

    #[test]
    fn bounds_a_message_whether_complete_or_not() {
        for text in [&br#"{"a":"0123456789"}"#[..], br#"{"a":"0123456789"#] {
            let mut framer = Framer::new(10);
            framer.push(text);
            assert_eq!(framer.next_message(), Err(FrameError::TooLong(10)));
        }
        let mut framer = Framer::new(7);
        framer.push(br#"{"a":1}{"b":2}"#);
        assert_eq!(all(&mut framer).len(), 2);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(serde_json::Value::from),
            "[\\\\\"{}\\[\\]a-z\n\u{e9}]{0,12}".prop_map(serde_json::Value::from),
            any::<bool>().prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                prop::collection::hash_map("[\\\\\"{}a-z]{0,6}", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(
            values in prop::collection::vec(json(), 1..5),
            cuts in prop::collection::vec(1usize..40, 1..20),
        ) {
            let texts: Vec<String> =
                values.iter().map(|value| serde_json::json!({ "v": value }).to_string()).collect();
            let stream = texts.concat().into_bytes();
            let mut framer = Framer::default();
            let mut got = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                framer.push(now);
                got.extend(all(&mut framer));
                rest = later;
                if rest.is_empty() { break; }
            }
            prop_assert_eq!(got, texts);
            prop_assert_eq!(framer.depth, 0);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut framer = Framer::new(100);
            framer.push(b"{");
            framer.push(&bytes);
            while let Ok(Some(_)) = framer.next_message() {}
        }
    }
}
