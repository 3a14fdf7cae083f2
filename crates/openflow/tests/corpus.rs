//! The fuzz targets' seeds on stable: the same checks as in `fuzz/fuzz_targets`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use openflow::{Flow, Group, Message, Meter};

fn seeds(target: &str) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("{} must be there", dir.display()))? {
        let path = entry?.path();
        all.push((path.clone(), std::fs::read(path)?));
    }
    ensure!(all.len() >= 10, "only {} seeds in {}", all.len(), dir.display());
    Ok(all)
}

#[test]
fn decode() -> Result<()> {
    let mut decoded = 0;
    for (path, data) in seeds("openflow_decode")? {
        let mut input = BytesMut::from(data.as_slice());
        while let Ok(Some((xid, message))) = Message::decode(&mut input) {
            decoded += 1;
            let _ = message.to_string();
            let mut again = BytesMut::new();
            if message.encode(xid, &mut again).is_ok() {
                let back = Message::decode(&mut again);
                ensure!(back == Ok(Some((xid, message))), "{}: {back:?}", path.display());
            }
        }
    }
    ensure!(decoded >= 10, "only {decoded} messages in the seeds");
    Ok(())
}

#[test]
fn text() -> Result<()> {
    let mut read = 0;
    for (path, data) in seeds("openflow_text")? {
        let Ok(text) = String::from_utf8(data) else { continue };
        if let Ok(flow) = text.parse::<Flow>() {
            read += 1;
            ensure!(flow.to_string().parse() == Ok(flow), "{}", path.display());
        }
        if let Ok(group) = text.parse::<Group>() {
            read += 1;
            ensure!(group.to_string().parse() == Ok(group), "{}", path.display());
        }
        if let Ok(meter) = text.parse::<Meter>() {
            read += 1;
            ensure!(meter.to_string().parse() == Ok(meter), "{}", path.display());
        }
    }
    ensure!(read >= 10, "only {read} values in the seeds");
    Ok(())
}
