//! Sizes of the connection tracking table, for metrics.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::metrics::ConntrackMetrics;
use crate::ovs::bridge::Datapath;

/// Between looks. One takes a call of ovs-vswitchd, or two small files.
const PERIOD: Duration = Duration::from_secs(10);

/// Where the kernel tells of its table; of the calling thread's namespace.
const KERNEL: &str = "/proc/sys/net/netfilter";

/// What can be known of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    total: i64,
    max: i64,
    /// Connections of pods alone, where they have a table of their own.
    antrea: Option<i64>,
}

/// Keeps the gauges up to date for ever.
///
/// # Errors
/// None: what cannot be read is told as zero connections, once in the log.
pub async fn run(datapath: Datapath, run_dir: PathBuf, metrics: &ConntrackMetrics) -> Infallible {
    let mut told = false;
    loop {
        let sizes = match datapath {
            Datapath::Userspace => userspace(&run_dir).await,
            Datapath::System => kernel(Path::new(KERNEL)),
        };
        match sizes {
            Ok(sizes) => {
                metrics.set(sizes.total, sizes.max, sizes.antrea);
                told = false;
            }
            Err(error) => {
                metrics.set(0, 0, None);
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(error, "the size of the connection tracking table is not known");
                }
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn userspace(run_dir: &Path) -> Result<Sizes, String> {
    let ask = async |command: &str| {
        let text = ovs::ctl::call(run_dir, command, &[Datapath::Userspace.dpif()])
            .await
            .map_err(|error| error.to_string())?;
        number(command, &text)
    };
    let total = ask("dpctl/ct-get-nconns").await?;
    Ok(Sizes { total, max: ask("dpctl/ct-get-maxconns").await?, antrea: Some(total) })
}

fn kernel(folder: &Path) -> Result<Sizes, String> {
    let read = |name: &str| {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        number(name, &text)
    };
    Ok(Sizes { total: read("nf_conntrack_count")?, max: read("nf_conntrack_max")?, antrea: None })
}

fn number(what: &str, text: &str) -> Result<i64, String> {
    text.trim().parse().map_err(|_| format!("{what}: {text:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_files_and_names_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("nf_conntrack_count"), "17\n").unwrap();
        let error = kernel(folder.path()).unwrap_err();
        assert!(error.contains("nf_conntrack_max"), "{error}");
        std::fs::write(folder.path().join("nf_conntrack_max"), "262144\n").unwrap();
        assert_eq!(kernel(folder.path()), Ok(Sizes { total: 17, max: 262_144, antrea: None }));
    }

    #[tokio::test]
    async fn asks_the_userspace_datapath() {
        // Open vSwitch makes this datapath with the first bridge of its type, which needs no privileges
        // only if it is a dummy: the answer is then that there is no such datapath.
        let dir = tempfile::Builder::new().prefix("agent-ct-").tempdir_in("/tmp").unwrap();
        let ovs = ovs::testing::TestOvs::start(dir.path(), None).unwrap();
        let error = userspace(ovs.dir()).await.unwrap_err();
        assert!(error.contains("ct-get-nconns"), "{error}");
        assert!(number("x", "many").is_err());
    }
}
