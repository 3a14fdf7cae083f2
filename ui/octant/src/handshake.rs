//! What go-plugin's host says in the environment, and what it wants to hear on stdout.

use std::path::Path;

/// The variable by which a plugin knows that its host executes it.
pub const COOKIE: &str = "DASHBOARD_PLUGIN";

/// What Octant sets it to.
pub const COOKIE_VALUE: &str = "dashboard";

/// Version of go-plugin's handshake.
const CORE_VERSION: u32 = 1;

/// Version of Octant's services.
const APP_VERSION: u32 = 1;

/// What the host wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// The host's certificate in PEM, where it wants TLS in both directions. Octant does not.
    pub client_certificate: Option<String>,
}

/// The host wants what this plugin does not have.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Versions differ.
    #[error("PLUGIN_PROTOCOL_VERSIONS is {0:?}; this plugin has version {APP_VERSION}")]
    Version(String),
}

impl Environment {
    /// Reads it by `variable`. A host that does not say which versions it knows takes the first one.
    ///
    /// # Errors
    /// The host does not know this plugin's version.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, HandshakeError> {
        let versions = variable("PLUGIN_PROTOCOL_VERSIONS").unwrap_or_default();
        let mut known = versions.split(',').map(|version| version.trim().parse::<u32>());
        if !versions.trim().is_empty() && !known.any(|version| version == Ok(APP_VERSION)) {
            return Err(HandshakeError::Version(versions));
        }
        let client_certificate = variable("PLUGIN_CLIENT_CERT").filter(|text| !text.trim().is_empty());
        Ok(Self { client_certificate })
    }
}

/// The line. `certificate` is the plugin's own, in base64 without padding; nothing without TLS.
pub(crate) fn line(socket: &Path, certificate: &str) -> String {
    format!("{CORE_VERSION}|{APP_VERSION}|unix|{}|grpc|{certificate}\n", socket.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Environment, HandshakeError> {
        Environment::read(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn versions_are_compared() {
        for known in ["", "1", "2,1", "3, 1 ,2"] {
            assert!(read(&[("PLUGIN_PROTOCOL_VERSIONS", known)]).is_ok(), "{known}");
        }
        for other in ["2", "11", "one", ",", "-1"] {
            let error = read(&[("PLUGIN_PROTOCOL_VERSIONS", other)]).unwrap_err().to_string();
            assert!(error.contains(other), "{error}");
        }
    }

    #[test]
    fn the_line_has_six_fields() {
        assert_eq!(line(Path::new("/tmp/a/socket"), ""), "1|1|unix|/tmp/a/socket|grpc|\n");
        assert_eq!(line(Path::new("/s"), "AAA"), "1|1|unix|/s|grpc|AAA\n");
    }
}
