//! What the runtime asks for, checked as the CNI specification demands of a plugin.

use antrea_api::cni::{CniCmdArgs, ErrorCode, SOCKET, SPEC_VERSIONS};
use serde::{Deserialize, Serialize};

/// Verb of the CNI specification 1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

/// One execution of the plugin.
#[derive(Debug)]
pub(crate) struct Request {
    pub command: Command,
    /// `cniVersion` of the configuration, the format of everything that is printed.
    pub spec_version: String,
    /// Path of the agent's socket.
    pub socket: String,
    pub args: CniCmdArgs,
}

/// An error as the specification prints it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CniError {
    pub code: i32,
    pub message: String,
    pub details: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Configuration {
    cni_version: Option<String>,
    name: Option<String>,
    cni_socket: Option<String>,
}

impl CniError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: code as i32, message: message.into(), details: String::new() }
    }

    pub(crate) fn io(message: String) -> Self {
        Self::new(ErrorCode::IoFailure, message)
    }

    pub(crate) fn decoding(message: String) -> Self {
        Self::new(ErrorCode::DecodingFailure, message)
    }

    fn environment(message: String) -> Self {
        Self::new(ErrorCode::InvalidEnvironmentVariables, message)
    }

    pub(crate) fn to_json(&self, spec_version: &str) -> Vec<u8> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Json<'a> {
            cni_version: &'a str,
            code: i32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        serde_json::to_vec(&Json {
            cni_version: spec_version,
            code: self.code,
            msg: &self.message,
            details: &self.details,
        })
        .expect("strings and numbers must serialise")
    }
}

/// The version to answer in, also where the configuration is too broken to use.
pub(crate) fn spec_version(configuration: &[u8]) -> String {
    serde_json::from_slice::<Configuration>(configuration)
        .ok()
        .and_then(|configuration| configuration.cni_version)
        .unwrap_or_else(|| SPEC_VERSIONS[0].to_owned())
}

/// The answer to VERSION.
pub(crate) fn supported_versions(spec_version: &str) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Json<'a> {
        cni_version: &'a str,
        supported_versions: [&'a str; SPEC_VERSIONS.len()],
    }
    serde_json::to_vec(&Json { cni_version: spec_version, supported_versions: SPEC_VERSIONS })
        .expect("strings must serialise")
}

impl Request {
    /// Reads the `CNI_*` variables and the configuration.
    ///
    /// # Errors
    /// Names the variable or the field that is missing or malformed, with the specification's code.
    pub(crate) fn parse(
        environment: impl Fn(&str) -> Option<String>,
        configuration: &[u8],
    ) -> Result<Self, CniError> {
        let get = |key| environment(key).filter(|value| !value.is_empty());
        let command = match get("CNI_COMMAND").as_deref() {
            Some("ADD") => Command::Add,
            Some("CHECK") => Command::Check,
            Some("DEL") => Command::Del,
            Some("GC") => Command::Gc,
            Some("STATUS") => Command::Status,
            Some("VERSION") => Command::Version,
            Some(other) => return Err(CniError::environment(format!("unknown CNI_COMMAND {other:?}"))),
            None => return Err(CniError::environment("CNI_COMMAND is not set".to_owned())),
        };
        let parsed: Configuration = serde_json::from_slice(configuration)
            .map_err(|error| CniError::decoding(format!("network configuration: {error}")))?;
        let spec_version = parsed.cni_version.unwrap_or_else(|| SPEC_VERSIONS[0].to_owned());
        if command != Command::Version {
            check_version(command, &spec_version)?;
            if !parsed.name.as_deref().is_some_and(is_identifier) {
                return Err(CniError::new(
                    ErrorCode::InvalidNetworkConfig,
                    format!("network configuration: name {:?} is missing or malformed", parsed.name),
                ));
            }
        }
        let required: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Command::Gc => &["CNI_PATH"],
            Command::Status | Command::Version => &[],
        };
        for key in required {
            if get(key).is_none() {
                return Err(CniError::environment(format!("{key} is not set")));
            }
        }
        let args = CniCmdArgs {
            container_id: get("CNI_CONTAINERID").unwrap_or_default(),
            netns: get("CNI_NETNS").unwrap_or_default(),
            ifname: get("CNI_IFNAME").unwrap_or_default(),
            args: get("CNI_ARGS").unwrap_or_default(),
            path: get("CNI_PATH").unwrap_or_default(),
            network_configuration: configuration.to_vec(),
        };
        if !args.container_id.is_empty() && !is_identifier(&args.container_id) {
            return Err(CniError::environment(format!(
                "CNI_CONTAINERID {:?} is malformed",
                args.container_id
            )));
        }
        if !args.ifname.is_empty() && !is_interface_name(&args.ifname) {
            return Err(CniError::environment(format!("CNI_IFNAME {:?} is malformed", args.ifname)));
        }
        let socket = parsed.cni_socket.unwrap_or_else(|| SOCKET.to_owned());
        Ok(Self { command, spec_version, socket, args })
    }
}

fn check_version(command: Command, version: &str) -> Result<(), CniError> {
    let incompatible = |message| Err(CniError::new(ErrorCode::IncompatibleCniVersion, message));
    let Some(index) = SPEC_VERSIONS.iter().position(|known| *known == version) else {
        return incompatible(format!(
            "cniVersion {version:?} is not supported; supported are {}",
            SPEC_VERSIONS.join(", ")
        ));
    };
    let since = match command {
        Command::Check => "0.4.0",
        Command::Gc | Command::Status => "1.1.0",
        Command::Add | Command::Del | Command::Version => return Ok(()),
    };
    if SPEC_VERSIONS.iter().position(|known| *known == since) > Some(index) {
        return incompatible(format!("{command:?} needs cniVersion {since} or later, not {version}"));
    }
    Ok(())
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`: container ids and network names (CNI specification, section 2).
fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// What the kernel accepts as a link's name (`dev_valid_name`).
fn is_interface_name(text: &str) -> bool {
    text.len() < 16
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURATION: &str = r#"{"cniVersion":"1.0.0","name":"antrea","type":"antrea"}"#;

    fn parse(environment: &[(&str, &str)], configuration: &str) -> Result<Request, CniError> {
        Request::parse(
            |key| environment.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned()),
            configuration.as_bytes(),
        )
    }

    fn add() -> Vec<(&'static str, &'static str)> {
        vec![
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "abc"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
        ]
    }

    #[test]
    fn reads_an_add() {
        let request = parse(&add(), CONFIGURATION).unwrap();
        assert_eq!(request.command, Command::Add);
        assert_eq!(request.spec_version, "1.0.0");
        assert_eq!(request.socket, SOCKET);
        assert_eq!(request.args.netns, "/run/netns/x");
    }

    #[test]
    fn names_what_is_missing() {
        for missing in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"] {
            let environment: Vec<_> = add().into_iter().filter(|(key, _)| *key != missing).collect();
            let error = parse(&environment, CONFIGURATION).unwrap_err();
            assert_eq!(error.code, 4);
            assert!(error.message.contains(missing), "{error}");
        }
    }

    #[test]
    fn del_needs_no_netns() {
        let environment: Vec<_> = add()
            .into_iter()
            .filter(|(key, _)| *key != "CNI_NETNS")
            .map(|(key, value)| (key, if value == "ADD" { "DEL" } else { value }))
            .collect();
        assert_eq!(parse(&environment, CONFIGURATION).unwrap().command, Command::Del);
    }

    #[test]
    fn gates_verbs_by_version() {
        let error = parse(&[("CNI_COMMAND", "STATUS")], CONFIGURATION).unwrap_err();
        assert_eq!(error.code, 1);
        assert!(error.message.contains("1.1.0"));
        let old = CONFIGURATION.replace("1.0.0", "0.2.0");
        assert_eq!(parse(&add(), &old).unwrap_err().code, 1);
        let new = CONFIGURATION.replace("1.0.0", "1.1.0");
        assert_eq!(parse(&[("CNI_COMMAND", "STATUS")], &new).unwrap().command, Command::Status);
    }

    #[test]
    fn refuses_malformed_names() {
        for (key, value) in
            [("CNI_CONTAINERID", "../x"), ("CNI_IFNAME", "a/b"), ("CNI_IFNAME", "0123456789abcdef")]
        {
            let environment: Vec<_> =
                add().into_iter().map(|(k, v)| (k, if k == key { value } else { v })).collect();
            let error = parse(&environment, CONFIGURATION).unwrap_err();
            assert_eq!(error.code, 4);
            assert!(error.message.contains(key), "{error}");
        }
        let unnamed = r#"{"cniVersion":"1.0.0"}"#;
        assert_eq!(parse(&add(), unnamed).unwrap_err().code, 7);
        assert_eq!(parse(&add(), "{").unwrap_err().code, 6);
    }

    #[test]
    fn version_lists_all() {
        let output = supported_versions("1.0.0");
        let value: serde_json::Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(value["supportedVersions"].as_array().unwrap().len(), SPEC_VERSIONS.len());
        assert_eq!(value["cniVersion"], "1.0.0");
    }
}
