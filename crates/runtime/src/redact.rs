//! Takes secrets out of text that leaves the process: private keys, tokens, and values under names that mean secrets.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Stands for what was taken out.
pub const REDACTED: &str = "[redacted]";

/// What is said where nothing can be taken out, because the patterns do not compile.
const WITHHELD: &str = "[withheld]\n";

struct Patterns {
    /// A private key in PEM, to its end or the text's.
    key: Regex,
    /// Three parts of base64url, of which the first begins like a JSON object.
    token: Regex,
    /// A credential of HTTP after its scheme.
    credential: Regex,
    /// Name and password in a URL.
    url: Regex,
    /// A name that means a secret, what separates it, and the value.
    named: Regex,
}

static PATTERNS: LazyLock<Option<Patterns>> = LazyLock::new(|| {
    let value = [
        // In quotes; in quotes of a text within a text; on further lines of YAML; or nothing, as JSON has it. Below: as the
        // rest of a line after a colon and a space; else a word.
        r#""(?:[^"\\]|\\.)*""#,
        r#"\\"(?:[^"\\]|\\[^"])*\\""#,
        r"'[^'\n]*'",
        r"[|>][-+0-9]*[ \t]*\n(?:(?:[ \t]+[^\n]*)?\n?)*",
        r"(?:null|true|false)[ \t]*(?:[,}\]\n]|\z)",
    ]
    .join("|");
    let name = r"[A-Za-z0-9_.\-]*(?:password|passwd|passphrase|secret|token|psk|private[_-]?key|api[_-]?key|access[_-]?key|key-data|authorization)";
    let named = format!(
        r#"(?i)({name}\\?["']?)(?:(\s*=\s*|:\s*)({value})|(\s*=\s*|:)([^\s,;}}\]"'\\]+)|(:[ \t]+)([^\s"'\\][^\n]*))"#
    );
    Some(Patterns {
        key: Regex::new(
            r"(?s)-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
        )
        .ok()?,
        token: Regex::new(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*").ok()?,
        credential: Regex::new(r"(?i)\b(bearer|basic)([ :=]+|%20)[A-Za-z0-9+/=._~-]{12,}").ok()?,
        url: Regex::new(r"://[^\s/@:]*:[^\s/@]+@").ok()?,
        named: Regex::new(&named).ok()?,
    })
});

/// The text without secrets. What only looks like one goes too.
pub fn redact(text: &str) -> Cow<'_, str> {
    let Some(Patterns { key, token, credential, url, named }) = &*PATTERNS else { return WITHHELD.into() };
    let text = replace(text.into(), key, |found| format!("-----{}: {REDACTED}-----", &found[1]));
    let text = replace(text, token, |_| REDACTED.to_owned());
    let text = replace(text, credential, |found| format!("{}{}{REDACTED}", &found[1], &found[2]));
    let text = replace(text, url, |_| format!("://{REDACTED}@"));
    replace(text, named, |found| {
        let part = |number| found.get(number).map(|part| part.as_str());
        let (between, value) = [(2, 3), (4, 5), (6, 7)]
            .into_iter()
            .find_map(|(between, value)| Some((part(between)?, part(value)?)))
            .unwrap_or_default();
        // What says nothing stays as it is.
        let plain = value.trim_matches(['"', '\'', '\\', ' ', ',', '}', ']', '\n']);
        if ["", "true", "false", "null", "none", "{", "[", "[redacted"].contains(&plain) {
            return found[0].to_owned();
        }
        let end = if value.ends_with('\n') { "\n" } else { "" };
        format!("{}{between}{REDACTED}{end}", &found[1])
    })
}

fn replace<'a>(text: Cow<'a, str>, pattern: &Regex, with: impl Fn(&Captures<'_>) -> String) -> Cow<'a, str> {
    match pattern.replace_all(&text, with) {
        Cow::Borrowed(_) => text,
        Cow::Owned(changed) => changed.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_wherever_they_stand() {
        for text in [
            "-----BEGIN EC PRIVATE KEY-----\nS3CRET\nS3CRET\n-----END EC PRIVATE KEY-----",
            "cut: -----BEGIN PRIVATE KEY-----\nS3CRET",
            "token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJTM0NSRVQifQ.S3CRET expired",
            "Authorization: Bearer S3CRETS3CRETS3CRET",
            "header=\"authorization: basic UzNDUkVUOlMzQ1JFVA==S3CRET\"",
            "password=S3CRET",
            "ANTREA_IPSEC_PSK=S3CRET",
            "options: {psk=S3CRET, remote_ip=\"10.0.0.1\"}",
            "options: {psk=\"S3CRET, with more S3CRET\"}",
            "password: my S3CRET has spaces, and a S3CRET comma\n",
            "{\"bindPassword\": \"S3CRET \\\" S3CRET\"}",
            "body=\"{\\\"token\\\":\\\"S3CRET it's S3CRET\\\"}\"",
            "token: |\n  S3CRET\n\n  S3CRET\nother: kept",
            "client-key-data: S3CRET",
            "privateKey:S3CRET",
            "private_key = 'S3CRET S3CRET'",
            "otlpEndpoint: https://user:S3CRET@collector:4317",
            "authorization: S3CRET",
            "{\"token\": null, \"password\": \"S3CRET\"}",
            "password: true S3CRET",
            "aws_secret_access_key: S3CRET",
        ] {
            let shown = redact(text);
            assert!(!shown.contains("S3CRET") && shown.contains(REDACTED), "{text:?} became {shown:?}");
        }
        assert!(redact("token: |\n  S3CRET\nother: kept").ends_with("\nother: kept"));
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "secretName: antrea-controller-tls",
            "automountServiceAccountToken: true",
            "\"token\": null, \"password\": \"\"",
            "type=gre, options:key=flow, external_ids:pod-name=web",
            "priority=200,ip,reg0=0x1/0xf actions=ct(commit,table=Output,zone=65520)",
            "the token is of another agent",
            "authorization failed; see https://[fd00::1]:6443/apis and http://10.0.0.1:80/a@b",
            "-A ANTREA-FORWARD -i antrea-gw0 -m comment --comment \"Antrea: accept\" -j ACCEPT",
        ] {
            assert_eq!(redact(text), text);
        }
    }
}
