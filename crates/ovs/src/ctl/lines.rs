//! Cuts the text of an answer into lines while it arrives, so that one of any length takes no memory. Performs no I/O.
//!
//! An answer is an object with `result` and `error`, of which one is null and the other a string (ovs-vswitchd's
//! `unixctl.c`), in any order.

use std::mem;

/// Longest line, and longest refusal, in bytes.
const LONGEST: usize = 64 << 10;

/// What cannot be an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// A line, or the refusal, is longer than 64 KiB.
    #[error("a line of more than {LONGEST} bytes")]
    TooLong,
    /// Not the object that is expected.
    #[error("byte {0:#04x} where none of an answer is")]
    Byte(u8),
    /// Neither result nor error.
    #[error("it has neither a result nor an error")]
    Empty,
}

/// Where the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    /// Between the strings of the object; which member the next value is of is known after its name.
    Between,
    String,
    /// After a backslash.
    Escape,
    /// In the digits of `\u`: how many are to come, and their value so far.
    Unicode(u8, u32),
    After,
}

/// Takes the bytes of an answer as they come.
#[derive(Debug)]
pub(super) struct Lines {
    place: Place,
    /// A value comes: the colon was there.
    value: bool,
    member: Vec<u8>,
    text: Vec<u8>,
    has_result: bool,
    refusal: Option<String>,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Before,
            value: false,
            member: Vec::new(),
            text: Vec::new(),
            has_result: false,
            refusal: None,
        }
    }

    /// Appends to `lines` those that end in `bytes`. Returns whether the answer has ended: then what is after its last line
    /// end is among them, and [`Self::refusal`] known.
    pub(super) fn take(&mut self, bytes: &[u8], lines: &mut Vec<String>) -> Result<bool, Unreadable> {
        for &byte in bytes {
            self.byte(byte, lines)?;
        }
        if self.place != Place::After {
            return Ok(false);
        }
        if !self.has_result && self.refusal.is_none() {
            return Err(Unreadable::Empty);
        }
        Ok(true)
    }

    /// What ovs-vswitchd said instead of an answer.
    pub(super) fn refusal(&mut self) -> Option<String> {
        self.refusal.take()
    }

    fn byte(&mut self, byte: u8, lines: &mut Vec<String>) -> Result<(), Unreadable> {
        match self.place {
            Place::Before | Place::After if byte.is_ascii_whitespace() => {}
            Place::Before if byte == b'{' => self.place = Place::Between,
            Place::Before | Place::After => return Err(Unreadable::Byte(byte)),
            Place::Between => match byte {
                b'"' => {
                    self.text.clear();
                    self.place = Place::String;
                }
                b':' => self.value = true,
                b',' => self.value = false,
                b'}' => self.place = Place::After,
                // Numbers and null, of `id` and of the member that says nothing.
                _ if byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() || b"+-.".contains(&byte) => {
                }
                _ => return Err(Unreadable::Byte(byte)),
            },
            Place::String => match byte {
                b'"' => self.end(lines),
                b'\\' => self.place = Place::Escape,
                _ => self.push(byte, lines)?,
            },
            Place::Escape => {
                self.place = Place::String;
                match byte {
                    b'n' => self.push(b'\n', lines)?,
                    b't' => self.push(b'\t', lines)?,
                    b'r' => self.push(b'\r', lines)?,
                    b'b' => self.push(8, lines)?,
                    b'f' => self.push(12, lines)?,
                    b'"' | b'\\' | b'/' => self.push(byte, lines)?,
                    b'u' => self.place = Place::Unicode(4, 0),
                    _ => return Err(Unreadable::Byte(byte)),
                }
            }
            Place::Unicode(left, value) => {
                let digit = char::from(byte).to_digit(16).ok_or(Unreadable::Byte(byte))?;
                let value = value << 4 | digit;
                self.place = Place::Unicode(left - 1, value);
                if left == 1 {
                    self.place = Place::String;
                    // Halves of a pair are not put together: ovs-vswitchd writes what is not ASCII as it is.
                    let character = char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER);
                    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                        self.push(byte, lines)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn is_result(&self) -> bool {
        self.value && self.member == b"result"
    }

    fn push(&mut self, byte: u8, lines: &mut Vec<String>) -> Result<(), Unreadable> {
        if byte == b'\n' && self.is_result() {
            lines.push(self.line());
        } else if self.text.len() == LONGEST {
            return Err(Unreadable::TooLong);
        } else {
            self.text.push(byte);
        }
        Ok(())
    }

    fn line(&mut self) -> String {
        String::from_utf8_lossy(&mem::take(&mut self.text)).into_owned()
    }

    /// Of a string.
    fn end(&mut self, lines: &mut Vec<String>) {
        self.place = Place::Between;
        if !self.value {
            self.member = mem::take(&mut self.text);
        } else if self.is_result() {
            self.has_result = true;
            if !self.text.is_empty() {
                lines.push(self.line());
            }
        } else if self.member == b"error" {
            self.refusal = Some(self.line().trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    type Answer = Result<(Vec<String>, Option<String>), Option<Unreadable>>;

    /// Bytes in parts of this length.
    fn all(bytes: &[u8], part: usize) -> Answer {
        let (mut scanner, mut lines) = (Lines::new(), Vec::new());
        for part in bytes.chunks(part) {
            if scanner.take(part, &mut lines).map_err(Some)? {
                return Ok((lines, scanner.refusal()));
            }
        }
        Err(None)
    }

    #[test]
    fn a_refusal_and_what_is_no_answer() {
        let refused = json!({"id": 0, "error": "no such zone\n", "result": null}).to_string();
        assert_eq!(all(refused.as_bytes(), 7), Ok((vec![], Some("no such zone".to_owned()))));
        let none = json!({"id": 0, "error": null, "result": null}).to_string();
        assert_eq!(all(none.as_bytes(), 7), Err(Some(Unreadable::Empty)));
        assert_eq!(all(b"[1]", 1), Err(Some(Unreadable::Byte(b'['))));
        assert_eq!(all(br#"{"result":"a"#, 1), Err(None), "it goes on");
        let long = json!({"id": 0, "error": null, "result": "x".repeat(LONGEST + 1)}).to_string();
        assert_eq!(all(long.as_bytes(), 4096), Err(Some(Unreadable::TooLong)));
        let lines = json!({"id": 0, "error": null, "result": "x".repeat(LONGEST) + "\ny"}).to_string();
        assert_eq!(all(lines.as_bytes(), 4096).unwrap().0.len(), 2);
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_text(text in "[ -~\n\téß\u{2028}]{0,200}", part in 1_usize..40, last: bool) {
            let (id, error, result) = ("\"id\":0", "\"error\":null", format!("\"result\":{}", json!(text)));
            let members = if last { [id, error, &result] } else { [result.as_str(), error, id] };
            let (lines, refusal) = all(format!("{{{}}}", members.join(",")).as_bytes(), part).unwrap();
            prop_assert_eq!(refusal, None);
            let wanted: Vec<_> = text.split('\n').collect();
            let wanted = if text.ends_with('\n') || text.is_empty() { &wanted[..wanted.len() - 1] } else { &wanted };
            prop_assert_eq!(lines, wanted);
        }

        #[test]
        fn any_bytes_are_borne(bytes in proptest::collection::vec(any::<u8>(), 0..300), part in 1_usize..40) {
            let _ = all(&bytes, part);
            let _ = all(&[br#"{"result":""#, &bytes[..]].concat(), part);
        }
    }
}
