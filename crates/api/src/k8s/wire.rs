//! The protobuf envelope and the framing of a watch.
//!
//! ```text
//! object:       "k8s\0" Unknown{ typeMeta{apiVersion, kind}, raw = message }
//! watch stream: ( length:u32be WatchEvent{ type, object{ raw = "k8s\0" Unknown… } } )*
//! ```
//!
//! The event itself has no envelope: apimachinery's protobuf stream serializer is the raw one. An
//! enveloped event is understood all the same.

use std::borrow::Cow;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Content type of an object.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Content type of a watch stream.
pub const PROTOBUF_WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// Longest frame that is accepted. The largest real one is an AddressGroup of some 100,000 Pods.
pub const MAX_FRAME: usize = 64 << 20;

const MAGIC: &[u8; 4] = b"k8s\0";

/// A message that travels as an object of a kind.
pub trait Object: Message + Default {
    /// Group and version, such as `controlplane.antrea.io/v1beta2`.
    const API_VERSION: &'static str;
    /// In the singular and in camel case, such as `NetworkPolicy`.
    const KIND: &'static str;

    /// The message in its envelope.
    fn seal(&self) -> Vec<u8> {
        seal(Self::API_VERSION, Self::KIND, self)
    }
}

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No `k8s\0` at the start.
    #[error("object does not start with the protobuf envelope's magic")]
    Magic,
    /// Malformed protobuf.
    #[error("malformed {what}: {message}")]
    Malformed {
        /// Which message.
        what: Cow<'static, str>,
        /// What is wrong with it.
        message: String,
    },
    /// A frame is longer than [`MAX_FRAME`].
    #[error("watch frame of {0} bytes")]
    TooLong(usize),
    /// An event of a type that does not exist.
    #[error("unknown watch event {0:?}")]
    EventType(String),
    /// An object of a kind that is not expected here.
    #[error("unexpected object {api_version} {kind}")]
    Kind {
        /// Group and version.
        api_version: String,
        kind: String,
    },
}

impl DecodeError {
    /// Whether nothing after it in the stream can be found. All other errors are of one frame, and the next one
    /// can be read.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::TooLong(_))
    }

    /// What cannot be read (`what`), with the decoder's own words.
    pub fn malformed(what: impl Into<Cow<'static, str>>, error: impl std::fmt::Display) -> Self {
        Self::Malformed { what: what.into(), message: error.to_string() }
    }
}

/// An object of a kind that only its envelope tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Group and version.
    pub api_version: String,
    pub kind: String,
    /// The encoded message.
    pub raw: Bytes,
}

impl Unknown {
    /// Decodes the message as `T`.
    ///
    /// # Errors
    /// Another kind, or malformed.
    pub fn decode<T: Object>(&self) -> Result<T, DecodeError> {
        if self.api_version != T::API_VERSION || self.kind != T::KIND {
            return Err(DecodeError::Kind { api_version: self.api_version.clone(), kind: self.kind.clone() });
        }
        T::decode(self.raw.clone()).map_err(|e| DecodeError::malformed(T::KIND, e))
    }
}

#[derive(Clone, PartialEq, Message)]
struct UnknownMessage {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct WatchEvent {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(message, optional, tag = "2")]
    object: Option<RawExtension>,
}

#[derive(Clone, PartialEq, Message)]
struct RawExtension {
    #[prost(bytes = "bytes", tag = "1")]
    raw: Bytes,
}

/// What happened to the object of a watch event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// It is in the selected set now.
    Added,
    /// It changed.
    Modified,
    /// It left the selected set.
    Deleted,
    /// Everything up to here has been sent.
    Bookmark,
    /// The watch failed; the object is a Status.
    Error,
}

impl EventType {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
            Self::Error => "ERROR",
        }
    }

    fn parse(name: &str) -> Result<Self, DecodeError> {
        [Self::Added, Self::Modified, Self::Deleted, Self::Bookmark, Self::Error]
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| DecodeError::EventType(name.to_owned()))
    }
}

/// What a later version adds to a message: field 100, a string.
const ADDED: &[u8] = if cfg!(feature = "future") { b"\xa2\x06\x06future" } else { b"" };

/// Puts a message into the envelope. The message is encoded once, straight into the result.
pub fn seal(api_version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
    let type_meta = TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() };
    let (meta_len, raw_len) = (type_meta.encoded_len(), message.encoded_len());
    let mut buffer = Vec::with_capacity(MAGIC.len() + meta_len + raw_len + 16);
    buffer.put_slice(MAGIC);
    put_header(&mut buffer, 1, meta_len);
    type_meta.encode_raw(&mut buffer);
    put_header(&mut buffer, 2, raw_len + ADDED.len());
    message.encode_raw(&mut buffer);
    buffer.put_slice(ADDED);
    buffer
}

/// Takes an object out of its envelope; the message shares `bytes`.
///
/// # Errors
/// No envelope, or a malformed one.
pub fn open(mut bytes: Bytes) -> Result<Unknown, DecodeError> {
    if !bytes.starts_with(MAGIC) {
        return Err(DecodeError::Magic);
    }
    bytes.advance(MAGIC.len());
    let message = UnknownMessage::decode(bytes).map_err(|e| DecodeError::malformed("envelope", e))?;
    let TypeMeta { api_version, kind } = message.type_meta.unwrap_or_default();
    Ok(Unknown { api_version, kind, raw: message.raw })
}

/// A watch event with its length in front. `object` is sealed.
pub fn frame(kind: EventType, object: &[u8]) -> Bytes {
    let name = kind.as_str();
    let extension = field_len(object.len());
    let length = field_len(name.len()) + field_len(extension);
    let mut buffer = BytesMut::with_capacity(4 + length);
    buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    put_header(&mut buffer, 1, name.len());
    buffer.put_slice(name.as_bytes());
    put_header(&mut buffer, 2, extension);
    put_header(&mut buffer, 1, object.len());
    buffer.put_slice(object);
    buffer.freeze()
}

/// Tag and length of a length-delimited field.
fn put_header(buffer: &mut impl BufMut, tag: u32, length: usize) {
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, buffer);
    prost::encoding::encode_varint(length as u64, buffer);
}

/// Bytes that a field with a tag below 16 takes with its header.
fn field_len(length: usize) -> usize {
    1 + prost::encoding::encoded_len_varint(length as u64) + length
}

/// Cuts a watch stream into events.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
}

impl FrameDecoder {
    /// Takes in what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete event, or `None` until more is received.
    ///
    /// # Errors
    /// A frame that is malformed: it is skipped. Or one that is too long: then the stream is of no use any more,
    /// see [`DecodeError::is_fatal`].
    pub fn next_event(&mut self) -> Result<Option<(EventType, Unknown)>, DecodeError> {
        let Some((head, _)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(DecodeError::TooLong(length));
        }
        if self.buffer.len() < 4 + length {
            self.buffer.reserve(4 + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(4);
        let mut frame = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() {
            // A large event must not keep its memory for the life of the watch.
            self.buffer = BytesMut::new();
        }
        if frame.starts_with(MAGIC) {
            frame = open(frame)?.raw;
        }
        let event = WatchEvent::decode(frame).map_err(|e| DecodeError::malformed("watch event", e))?;
        let kind = EventType::parse(&event.kind)?;
        let object = open(event.object.map(|object| object.raw).unwrap_or_default())?;
        Ok(Some((kind, object)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::k8s::Status;

    #[test]
    fn envelope_as_apimachinery_writes_it() {
        let sealed = Status { reason: "x".into(), ..Status::default() }.seal();
        let bytes = b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Status\x12\x05\x0a\x00\x22\x01x";
        assert_eq!(sealed, bytes);
        let opened = open(Bytes::from_static(bytes)).unwrap();
        assert_eq!(opened.decode::<Status>().unwrap().reason, "x");
        let other = Unknown { kind: "Pod".into(), ..opened };
        assert!(matches!(other.decode::<Status>(), Err(DecodeError::Kind { .. })));
    }

    #[test]
    fn frame_as_apimachinery_writes_it() {
        let framed = frame(EventType::Added, b"OBJ");
        assert_eq!(&framed[..], b"\0\0\0\x0e\x0a\x05ADDED\x12\x05\x0a\x03OBJ");
    }

    #[test]
    fn enveloped_events_are_understood() {
        let inner = frame(EventType::Deleted, &Status::default().seal());
        let event = WatchEvent::decode(&inner[4..]).unwrap();
        let wrapped = seal("v1", "WatchEvent", &event);
        let mut decoder = FrameDecoder::default();
        decoder.push(&u32::try_from(wrapped.len()).unwrap().to_be_bytes());
        decoder.push(&wrapped);
        assert_eq!(decoder.next_event().unwrap().unwrap().0, EventType::Deleted);
    }

    #[test]
    fn hostile_frames_are_refused() {
        let refuse = |bytes: &[u8]| {
            let mut decoder = FrameDecoder::default();
            decoder.push(bytes);
            decoder.next_event().unwrap_err()
        };
        assert_eq!(refuse(b"\xff\xff\xff\xff"), DecodeError::TooLong(u32::MAX as usize));
        assert!(matches!(refuse(b"\0\0\0\x02\x0a\x05"), DecodeError::Malformed { .. }));
        assert!(matches!(refuse(b"\0\0\0\x03\x0a\x01X"), DecodeError::EventType(_)));
        assert_eq!(refuse(b"\0\0\0\x07\x0a\x05ADDED"), DecodeError::Magic);
    }

    #[test]
    fn a_malformed_frame_is_skipped() {
        let mut decoder = FrameDecoder::default();
        decoder.push(b"\0\0\0\x02\x0a\x05");
        decoder.push(&frame(EventType::Added, &Status::default().seal()));
        assert!(decoder.next_event().is_err_and(|error| !error.is_fatal()));
        assert_eq!(decoder.next_event().unwrap().unwrap().0, EventType::Added);
        decoder.push(b"\xff\xff\xff\xff");
        assert!(decoder.next_event().is_err_and(|error| error.is_fatal()));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            messages in proptest::collection::vec(".{0,30}", 1..6),
            cuts in proptest::collection::vec(1_usize..40, 1..40),
        ) {
            let mut stream = Vec::new();
            for message in &messages {
                let status = Status { message: message.clone(), ..Status::default() };
                stream.extend_from_slice(&frame(EventType::Modified, &status.seal()));
            }
            let (mut decoder, mut seen, mut rest) = (FrameDecoder::default(), Vec::new(), stream.as_slice());
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                decoder.push(now);
                while let Some((kind, object)) = decoder.next_event().unwrap() {
                    prop_assert_eq!(kind, EventType::Modified);
                    seen.push(object.decode::<Status>().unwrap().message);
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, messages);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_event() {}
            let _ = open(Bytes::from(bytes));
        }
    }
}
