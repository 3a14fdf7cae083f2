//! The file: pcapng, one section of one link, times in nanoseconds.

use std::time::Duration;

const SECTION: u32 = 0x0a0d_0d0a;
const LINK: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;
/// Options: name of a link, and the unit of its times.
const NAME: u16 = 2;
const RESOLUTION: u16 = 9;

fn padding(length: usize) -> usize {
    (4 - length % 4) % 4
}

fn padded(out: &mut Vec<u8>, content: &[u8]) {
    out.extend(content);
    out.resize(out.len() + padding(content.len()), 0);
}

fn option(out: &mut Vec<u8>, code: u16, content: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend(u16::try_from(content.len()).unwrap_or_default().to_le_bytes());
    padded(out, content);
}

/// A block: its kind, its length, what is in it, its length again.
fn block(kind: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 12).unwrap_or(u32::MAX).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, content, &length].concat()
}

/// How a file begins, whose packets are of this link.
pub fn beginning(link: &str) -> Vec<u8> {
    let mut section = BYTE_ORDER.to_le_bytes().to_vec();
    // Version 1.0, of a length that nobody says.
    section.extend([1, 0, 0, 0]);
    section.extend([0xff; 8]);
    let mut described = ETHERNET.to_le_bytes().to_vec();
    // No packet is cut.
    described.extend([0; 6]);
    option(&mut described, NAME, link.as_bytes());
    option(&mut described, RESOLUTION, &[9]);
    option(&mut described, 0, &[]);
    [block(SECTION, &section), block(LINK, &described)].concat()
}

/// A packet that was seen then, as time since 1970. On the wire it had `length` octets.
pub fn packet(time: Duration, length: usize, octets: &[u8]) -> Vec<u8> {
    let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let half = |half: u64| u32::try_from(half & 0xffff_ffff).unwrap_or_default();
    let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let numbers = [0, half(time >> 32), half(time), size(octets.len()), size(length)];
    let mut content: Vec<u8> = numbers.iter().flat_map(|number: &u32| number.to_le_bytes()).collect();
    padded(&mut content, octets);
    block(PACKET, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a file into its blocks, as a reader does.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let mut found = Vec::new();
        while !file.is_empty() {
            let length = number(&file[4..]) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(number(&file[length - 4..]) as usize, length, "a block ends with its length");
            found.push((number(file), file[8..length - 4].to_vec()));
            file = &file[length..];
        }
        found
    }

    #[test]
    fn a_file_as_the_format_says() {
        let time = Duration::new(1_700_000_000, 123_456_789);
        let file = [beginning("web-1a2b"), packet(time, 70, b"abcde"), packet(time, 4, b"abcd")].concat();
        let found = blocks(&file);
        assert_eq!(found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [0x0a0d_0d0a, 1, 6, 6]);
        assert_eq!(found[0].1, [0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
        let mut link = vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 8, 0];
        link.extend(b"web-1a2b");
        link.extend([9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(found[1].1, link);
        let packet = &found[2].1;
        let word = |n: usize| u64::from(u32::from_le_bytes(packet[4 * n..4 * n + 4].try_into().unwrap()));
        assert_eq!(word(1) << 32 | word(2), 1_700_000_000_123_456_789);
        assert_eq!((word(0), word(3), word(4)), (0, 5, 70));
        assert_eq!(&packet[20..], b"abcde\0\0\0");
        assert_eq!(found[3].1[20..], *b"abcd");
    }
}
