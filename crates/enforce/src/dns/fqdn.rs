//! Domain names as policies write them.

/// Whether a domain name is meant, both in lower case. As upstream has it, `*` stands for any part, be it none or one with
/// dots: `*.example.com` means every name below `example.com`, and not that name itself.
pub(super) fn is_meant(fqdn: &str, name: &str) -> bool {
    let (fqdn, name) = (fqdn.as_bytes(), name.as_bytes());
    let (mut at, mut in_name) = (0, 0);
    // Where the last star is, and what of the name comes after what it stands for.
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match (fqdn.get(at), star) {
            (Some(b'*'), _) => {
                star = Some((at, in_name));
                at += 1;
            }
            (Some(octet), _) if *octet == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            (_, Some((before, rest))) => {
                star = Some((before, rest + 1));
                (at, in_name) = (before + 1, rest + 1);
            }
            (_, None) => return false,
        }
    }
    fqdn[at..].iter().all(|octet| *octet == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_star_stands_for_any_part() {
        let cases = [
            ("example.com", "example.com", true),
            ("example.com", "a.example.com", false),
            ("example.com", "example.com.evil.org", false),
            ("example.com", "exampleXcom", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "aexample.com", false),
            ("*example.com", "aexample.com", true),
            ("*example.com", "example.com", true),
            ("a.*.com", "a.b.c.com", true),
            ("a.*.com", "a.com", false),
            ("a*b*c", "aXbbYbcZc", true),
            ("a*b*c", "aXbbYbcZ", false),
            ("*", "anything.at.all", true),
            ("**", "x", true),
            ("a*", "a", true),
        ];
        for (fqdn, name, is) in cases {
            assert_eq!(is_meant(fqdn, name), is, "{fqdn} {name}");
        }
    }

    /// What the stars stand for, tried out.
    fn tried(fqdn: &[u8], name: &[u8]) -> bool {
        match fqdn.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|skip| tried(rest, &name[skip..])),
            Some((octet, rest)) => name.first() == Some(octet) && tried(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_is_as_if_all_parts_were_tried(fqdn in "[ab.*]{0,8}", name in "[ab.]{0,10}") {
            prop_assert_eq!(is_meant(&fqdn, &name), tried(fqdn.as_bytes(), name.as_bytes()));
        }
    }
}
