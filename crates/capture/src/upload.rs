//! Where a capture's file is to go, read; and what the program that sends it is told, and says.
//!
//! It is OpenSSH's `sftp`. It sends the file under another name and gives it its own when it is whole.

use antrea_crds::packet_capture::FileServer;

use crate::request::{Problem, problem};

/// Name under which the server's key is known to that program, whatever the address.
pub const ALIAS: &str = "antrea-file-server";

/// SSH's port.
const PORT: u16 = 22;

/// Longest word of an error that is passed on.
const LONGEST: usize = 300;

/// A server, and a folder of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name or address.
    pub host: String,
    pub port: u16,
    /// Absolute, without a slash at its end.
    folder: String,
    /// Type of its key, and the key in base64.
    key: (String, String),
}

impl Target {
    /// Reads `spec.fileServer`.
    ///
    /// # Errors
    /// It is no place that a file can go to, or nobody could tell whether the server is who it says.
    pub fn read(server: &FileServer) -> Result<Self, Problem> {
        let url = |message: &str| problem("spec.fileServer.url", message);
        let Some(rest) = server.url.strip_prefix("sftp://") else {
            return url("is none of sftp://");
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return url("user and password are in the Secret, not here");
        }
        let is_v6 = |host: &str| host.parse::<std::net::Ipv6Addr>().is_ok();
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) if is_v6(host) && (rest.is_empty() || rest.starts_with(':')) => {
                (host, rest.strip_prefix(':'))
            }
            Some(_) => return url("its host is no address"),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let named = host.contains(':') || host.chars().all(plain);
        if host.is_empty() || host.starts_with('-') || !named {
            return url("its host is neither a name nor an address");
        }
        let port = match port.map(str::parse) {
            None => PORT,
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return url("its port is not within 1 and 65535"),
        };
        // What quoting or patterns could change has no place in it.
        if !path.chars().all(|c| plain(c) || "/~+,=@".contains(c)) {
            return url("its path has other characters than letters, digits and -._/~+,=@");
        }
        let path = path.trim_matches('/');
        let folder = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self { host: host.to_owned(), port, folder, key: key(server.host_public_key.as_deref())? })
    }

    /// The file of known hosts for [`ALIAS`].
    pub fn known_hosts(&self) -> String {
        format!("{ALIAS} {} {}\n", self.key.0, self.key.1)
    }

    /// What the program has to do to bring the file at `local` there, which is called `name` then. Neither has a quote.
    pub fn batch(&self, local: &str, name: &str) -> String {
        let remote = format!("{}/{name}", self.folder);
        format!("put \"{local}\" \"{remote}.part\"\nrename \"{remote}.part\" \"{remote}\"\n")
    }

    /// Where the file is then.
    pub fn url(&self, name: &str) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("sftp://{host}:{}{}/{name}", self.port, self.folder)
    }
}

fn key(given: Option<&str>) -> Result<(String, String), Problem> {
    let field = "spec.fileServer.hostPublicKey";
    let Some(given) = given.map(str::trim).filter(|given| !given.is_empty()) else {
        return problem(
            field,
            "is missing: a password is shown to nobody who could be anybody; see ssh-keyscan",
        );
    };
    let wrong = || Problem { field, message: "is no public key as SSH sends it, in base64".to_owned() };
    // The key begins with the length and the name of its type.
    let octets = decode(given).ok_or_else(wrong)?;
    let (length, rest) = octets.split_at_checked(4).ok_or_else(wrong)?;
    let length = length.iter().fold(0_usize, |sum, octet| sum << 8 | usize::from(*octet));
    let type_ = rest.get(..length).and_then(|name| std::str::from_utf8(name).ok()).ok_or_else(wrong)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-@.".contains(c);
    if type_.is_empty() || rest.len() == length || !type_.chars().all(plain) {
        return Err(wrong());
    }
    Ok((type_.to_owned(), given.to_owned()))
}

/// Base64, the usual alphabet.
fn decode(text: &str) -> Option<Vec<u8>> {
    let (mut octets, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, held) = (bits << 6 | u32::from(value), held + 6);
        if held >= 8 {
            held -= 8;
            octets.push(u8::try_from(bits >> held & 0xff).ok()?);
            bits &= (1 << held) - 1;
        }
    }
    Some(octets)
}

/// A user's name that the program takes as such.
pub fn is_user(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._@+".contains(c);
    !name.is_empty() && name.len() <= 64 && !name.starts_with('-') && name.chars().all(plain)
}

/// What the program complains of, for people.
pub fn complaint(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let has = |word: &str| lines.iter().any(|line| line.contains(word));
    if has("Host key verification failed") || has("host key is known") {
        return "the server has another key than spec.fileServer.hostPublicKey".to_owned();
    }
    if has("Permission denied (") || has("Too many authentication failures") {
        return "the server refuses user and password of the Secret".to_owned();
    }
    let last = lines
        .iter()
        .rev()
        .find(|line| **line != "Connection closed" && !line.starts_with("Connection closed by"));
    let text = last.or(lines.last()).copied().unwrap_or("it does not say why");
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    format!("sftp says {plain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIGPvE6ppVEzUSEYxCLMAIfEpIIBp9oSmHOGkLyc4SCn1";

    fn target(url: &str) -> Result<Target, String> {
        let server = FileServer { url: url.into(), host_public_key: Some(KEY.into()) };
        Target::read(&server).map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_place_is_read_and_written() {
        for (url, host, port, file) in [
            ("sftp://192.0.2.7:2222/upload/", "192.0.2.7", 2222, "sftp://192.0.2.7:2222/upload/c.pcapng"),
            (
                "sftp://files.example.com/a/b",
                "files.example.com",
                22,
                "sftp://files.example.com:22/a/b/c.pcapng",
            ),
            ("sftp://[fd00::7]:2222", "fd00::7", 2222, "sftp://[fd00::7]:2222/c.pcapng"),
            ("sftp://[fd00::7]/", "fd00::7", 22, "sftp://[fd00::7]:22/c.pcapng"),
        ] {
            let target = target(url).unwrap();
            assert_eq!((&target.host[..], target.port), (host, port));
            assert_eq!(target.url("c.pcapng"), file);
        }
        let target = target("sftp://h/upload").unwrap();
        assert_eq!(target.known_hosts(), format!("antrea-file-server ssh-ed25519 {KEY}\n"));
        assert_eq!(
            target.batch("/tmp/c.pcapng", "c.pcapng"),
            "put \"/tmp/c.pcapng\" \"/upload/c.pcapng.part\"\nrename \"/upload/c.pcapng.part\" \"/upload/c.pcapng\"\n"
        );
    }

    #[test]
    fn what_could_be_taken_for_something_else_is_refused() {
        for (url, says) in [
            ("ftp://h/p", "is none of sftp://"),
            ("sftp://user:secret@h/p", "in the Secret"),
            ("sftp:///p", "neither a name nor"),
            ("sftp://-oProxyCommand=x/p", "neither a name nor"),
            ("sftp://a b/p", "neither a name nor"),
            ("sftp://[h]/p", "no address"),
            ("sftp://[fd00::7]22/p", "no address"),
            ("sftp://h:0/p", "port"),
            ("sftp://h:70000/p", "port"),
            ("sftp://h/a\"b", "path"),
            ("sftp://h/a\nrm b", "path"),
            ("sftp://h/*", "path"),
        ] {
            let error = target(url).unwrap_err();
            assert!(error.starts_with("spec.fileServer.url: ") && error.contains(says), "{url}: {error}");
        }
        for (key, says) in [
            (None, "is missing"),
            (Some(""), "is missing"),
            (Some("ssh-ed25519 AAAA"), "is no public key"),
            (Some("AAAA"), "is no public key"),
            (Some("AAAAC3NzaC1lZDI1NTE5"), "is no public key"),
            (Some("/////w=="), "is no public key"),
        ] {
            let server = FileServer { url: "sftp://h/p".into(), host_public_key: key.map(str::to_owned) };
            let error = Target::read(&server).unwrap_err().to_string();
            assert!(error.contains("hostPublicKey") && error.contains(says), "{key:?}: {error}");
        }
        assert!(is_user("antrea-1") && is_user("a.b@c"));
        for name in ["", "-x", "a b", "a\"", &"a".repeat(65)] {
            assert!(!is_user(name), "{name}");
        }
    }

    #[test]
    fn complaints_are_in_words() {
        for (stderr, says) in [
            ("Host key verification failed.\r\nConnection closed\n", "another key"),
            (
                "antrea@192.0.2.7: Permission denied (password).\nConnection closed\n",
                "refuses user and password",
            ),
            (
                "ssh: connect to host 192.0.2.7 port 22: Connection refused\r\nConnection closed\n",
                "Connection refused",
            ),
            ("dest open \"/upload/c.part\": Permission denied\n", "Permission denied"),
            ("", "does not say"),
        ] {
            assert!(complaint(stderr).contains(says), "{stderr}: {}", complaint(stderr));
        }
        assert!(complaint(&"x".repeat(5000)).len() < 400);
    }
}
