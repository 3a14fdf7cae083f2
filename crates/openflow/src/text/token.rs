//! Cutting text into keys and values the way ovs-ofctl does: separated by commas and white space, with
//! parentheses kept together.

use crate::ParseError;

/// One piece: `key`, `key=value`, `key:value` or `key(value)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) key: &'a str,
    pub(super) value: Option<&'a str>,
    /// All of it.
    pub(super) text: &'a str,
}

impl<'a> Token<'a> {
    /// The value, which must be there.
    pub(super) fn value(&self, what: &'static str) -> Result<&'a str, ParseError> {
        self.value.ok_or_else(|| ParseError::new(what, self.text, "needs a value"))
    }

    pub(super) fn number(&self, what: &'static str, max: u128) -> Result<u128, ParseError> {
        super::value::number(self.value(what)?, max).map_err(|e| ParseError::new(what, self.text, e.problem))
    }

    pub(super) fn u16(&self, what: &'static str) -> Result<u16, ParseError> {
        self.number(what, u16::MAX.into()).map(|n| n as u16)
    }

    pub(super) fn u32(&self, what: &'static str) -> Result<u32, ParseError> {
        self.number(what, u32::MAX.into()).map(|n| n as u32)
    }
}

fn separator(c: char) -> bool {
    c == ',' || c.is_ascii_whitespace()
}

/// The pieces of a text.
pub(super) struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Tokens { rest: text }
    }

    /// What is not cut yet.
    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }
}

/// Length of the text up to the first separator outside parentheses.
fn span(text: &str) -> Result<usize, ParseError> {
    let mut depth = 0usize;
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => {
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| ParseError::new("text", text, "closes a parenthesis that is not open"))?;
            }
            c if depth == 0 && separator(c) => return Ok(i),
            _ => {}
        }
    }
    if depth == 0 { Ok(text.len()) } else { Err(ParseError::new("text", text, "parenthesis is not closed")) }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Result<Token<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.rest.trim_start_matches(separator);
        if text.is_empty() {
            self.rest = "";
            return None;
        }
        let len = match span(text) {
            Ok(n) => n,
            Err(e) => {
                self.rest = "";
                return Some(Err(e));
            }
        };
        let (piece, rest) = text.split_at(len);
        self.rest = rest;
        let (key, value) = match piece.find(['=', ':', '(']) {
            None => (piece, None),
            Some(at) => {
                let (key, tail) = piece.split_at(at);
                let inner = tail.get(1..).unwrap_or_default();
                if tail.starts_with('(') {
                    match inner.strip_suffix(')') {
                        Some(inside) => (key, Some(inside)),
                        None => {
                            return Some(Err(ParseError::new(
                                "text",
                                piece,
                                "something follows a parenthesis",
                            )));
                        }
                    }
                } else {
                    (key, Some(inner))
                }
            }
        };
        Some(Ok(Token { key, value, text: piece }))
    }
}
