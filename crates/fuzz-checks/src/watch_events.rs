//! Any bytes from the controller, read as the agent reads a watch: nothing panics, events do not depend on how
//! the network cuts the stream, and an event that is understood is written and read as the same event.

use antrea_api::{
    controlplane::{Event, GroupEvent},
    k8s::{DecodeError, EventType, FrameDecoder, Object, Unknown, frame},
};

/// Checks one input and returns how many of its events are understood.
pub fn check(data: &[u8]) -> usize {
    let frames = read(data, data.len());
    let cut = data.first().map_or(1, |byte| usize::from(*byte) % 61 + 1);
    assert_eq!(read(data, cut), frames);
    let mut count = 0;
    for (kind, object) in frames.iter().flatten() {
        // Of what does not decode something may be salvaged, which has to survive as well.
        if let Ok(event) = Event::read(*kind, object) {
            count += 1;
            // The object, not the event, is compared: a priority may be no number, which equals nothing.
            if let Some((kind, sealed)) = seal(&event) {
                let again = read(&frame(kind, &sealed), usize::MAX);
                let again = again.first().and_then(|read| read.as_ref().ok());
                let again = again.and_then(|(kind, object)| Event::decode(*kind, object).ok());
                assert_eq!(again.as_ref().and_then(seal), Some((kind, sealed)), "{event:?}");
            }
        }
    }
    count
}

/// Everything that can be read of a stream which arrives in pieces of `size` bytes.
fn read(data: &[u8], size: usize) -> Vec<Result<(EventType, Unknown), DecodeError>> {
    let mut decoder = FrameDecoder::default();
    let mut seen = Vec::new();
    for piece in data.chunks(size.max(1)) {
        decoder.push(piece);
        while let Some(event) = decoder.next_event().transpose() {
            let fatal = event.as_ref().is_err_and(DecodeError::is_fatal);
            seen.push(event);
            if fatal {
                return seen;
            }
        }
    }
    seen
}

/// An event as a server would send it; none where what is left of it is less than what came.
fn seal(event: &Event) -> Option<(EventType, Vec<u8>)> {
    Some(match event {
        Event::Damaged(damaged) => return damaged.rest.as_deref().and_then(seal),
        Event::AddressGroup(GroupEvent::Added(group)) => (EventType::Added, group.seal()),
        Event::AddressGroup(GroupEvent::Patched(patch)) => (EventType::Modified, patch.seal()),
        Event::AppliedToGroup(GroupEvent::Added(group)) => (EventType::Added, group.seal()),
        Event::AppliedToGroup(GroupEvent::Patched(patch)) => (EventType::Modified, patch.seal()),
        Event::Policy(policy) => (EventType::Added, policy.seal()),
        Event::Error(status) => (EventType::Error, status.seal()),
        _ => return None,
    })
}
