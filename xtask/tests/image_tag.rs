//! What is rolled out has a tag by all that it is made of: whatever changes is another image for the operator.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

/// The tag of binaries, all with the same contents but one, on a base image.
fn tag(base: &str, changed: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    for name in ["antrea-agent", "antrea-cni", "antrea-controller", "antrea-operator", "antctl"] {
        let text = if name == changed { "other" } else { "same" };
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    // Only what asks for the base image's id is played.
    let script = r#". hack/images.sh; buildah() { echo "$BASE_ID"; }; base_image() { echo base; }; image_tag "$FOLDER""#;
    let output = Command::new("bash")
        .args(["-c", script])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .env("BASE_ID", base)
        .env("FOLDER", folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_tag_changes_with_the_base_image_and_every_binary() {
    let usual = tag("sha256:1", "");
    assert!(usual.starts_with('v') && usual.contains("-dev-"), "{usual}");
    assert_eq!(usual, tag("sha256:1", ""), "the same is the same");
    for (base, changed) in
        [("sha256:2", ""), ("sha256:1", "antrea-agent"), ("sha256:1", "antrea-cni"), ("sha256:1", "antctl")]
    {
        assert_ne!(tag(base, changed), usual, "{base} {changed}");
    }
}
