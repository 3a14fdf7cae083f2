//! References of container images.

/// Whether it names a repository, and a tag or a digest of the right form if any.
pub(super) fn is_reference(text: &str) -> bool {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let digest_good = digest.is_none_or(|digest| {
        digest.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
        })
    });
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (name, None),
    };
    let tag_good = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len())
            && tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
            && !tag.starts_with(['.', '-'])
    });
    digest_good && tag_good && is_repository(repository)
}

fn is_repository(text: &str) -> bool {
    let mut parts: Vec<&str> = text.split('/').collect();
    if let Some(host) = parts.first().filter(|first| first.contains(['.', ':']) || **first == "localhost") {
        let (name, port) = host.split_once(':').map_or((*host, None), |(name, port)| (name, Some(port)));
        let good = !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-')
            && port.is_none_or(|port| port.parse::<u16>().is_ok());
        if !good || parts.len() == 1 {
            return false;
        }
        parts.remove(0);
    }
    parts.iter().all(|part| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
            && ends(part.chars().next())
            && ends(part.chars().last())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let digest = format!("a/b@sha256:{}", "0".repeat(64));
        for good in
            ["a", "a/b:v1", "docker.io/a/b:v1.2-x_y", "localhost:5000/a", &digest, "r.example.com/a/b/c"]
        {
            assert!(is_reference(good), "{good}");
        }
        for bad in [
            "",
            "A/b",
            "a/b:",
            "a/b:.x",
            "a/b@sha256:00",
            "a b",
            "a//b",
            "https://r.example.com/a",
            "x.y:z/a",
            "a/-b",
        ] {
            assert!(!is_reference(bad), "{bad}");
        }
    }
}
