//! Any octets as a frame that a rule rejects: nothing panics, and the answer goes to the sender, is read again and is
//! answered by nobody.

use antrea_packet::{parse, refuse};

/// Checks one input and returns whether it gets an answer.
pub fn check(data: &[u8]) -> usize {
    let (by, to) = ([2, 0, 0, 0, 0, 1].into(), [2, 0, 0, 0, 0, 2].into());
    let Some(answer) = refuse(data, by, to) else { return 0 };
    let asked = parse(data).map(|headers| (headers.src, headers.dst));
    let told = parse(&answer).map(|headers| (headers.dst, headers.src));
    assert!(told.is_some() && told == asked, "{told:?} of {asked:?}");
    assert_eq!(refuse(&answer, to, by), None, "an answer to an answer");
    1
}
