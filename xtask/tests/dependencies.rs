//! Dependencies point the way that ARCHITECTURE.md's table of crates says.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Crates that decide: nothing that they reach may open a socket, run a task or speak to Kubernetes.
const PURE: [&str; 6] =
    ["openflow", "antrea-packet", "antrea-policy", "antrea-flows", "antrea-enforce", "antrea-proxy"];

/// What a pure crate must not reach by any path of ordinary dependencies.
const EDGES: [&str; 16] = [
    "async-std",
    "axum",
    "futures",
    "hyper",
    "k8s-openapi",
    "kube",
    "kube-client",
    "kube-core",
    "mio",
    "netlink-sys",
    "nix",
    "rtnetlink",
    "rustls",
    "smol",
    "socket2",
    "tokio",
];

/// What a pure crate's own sources must not name: the standard library has edges too.
const STD_EDGES: [&str; 10] = [
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "std::fs",
    "std::process",
    "Instant::now",
    "SystemTime",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    path: Option<PathBuf>,
}

/// A row of the table.
struct Row {
    /// The crates' folders.
    folders: Vec<String>,
    uses: Uses,
}

enum Uses {
    /// These folders.
    Only(BTreeSet<String>),
    Everything,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("must lie in the repository").to_owned()
}

fn metadata() -> Result<Metadata> {
    let mut command = Command::new(env!("CARGO"));
    let args = ["metadata", "--format-version=1", "--offline", "--no-deps"];
    let output = command.args(args).current_dir(root()).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata")
}

/// Names of all packages that one reaches by ordinary dependencies, with the features that itself asks for: what others
/// of the workspace ask of the same crates is not its doing.
fn reach(package: &str) -> Result<BTreeSet<String>> {
    let mut command = Command::new(env!("CARGO"));
    let args = ["tree", "--offline", "--locked", "--edges=normal", "--prefix=none", "--format={p}"];
    let args = args.into_iter().chain(["--target=x86_64-unknown-linux-gnu", "--package", package]);
    let output = command.args(args).current_dir(root()).output()?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let names: BTreeSet<String> =
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    ensure!(names.contains(package), "{package} does not even reach itself");
    Ok(names)
}

/// The rows under "Crates". "the above" means the rows above; other names are those of folders, without
/// `crates/`.
fn table() -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let (_, section) = text.split_once("\n## Crates\n").context("ARCHITECTURE.md has no section Crates")?;
    let lines = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let mut rows: Vec<Row> = Vec::new();
    for line in lines.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [folders, _, uses] = cells.as_slice() else { anyhow::bail!("no three cells: {line}") };
        let above = || rows.iter().flat_map(|row| row.folders.iter().cloned());
        let uses = match *uses {
            "–" => Uses::Only(BTreeSet::new()),
            "everything" => Uses::Everything,
            "the above" => Uses::Only(above().collect()),
            names => {
                let find = |name: &str| {
                    let known = above().find(|folder| folder.rsplit('/').next() == Some(name));
                    known.with_context(|| format!("{name} is in no row above: {line}"))
                };
                Uses::Only(names.split(", ").map(find).collect::<Result<_>>()?)
            }
        };
        let folders = folders.split(", ").map(|folder| folder.trim_matches('`').to_owned()).collect();
        rows.push(Row { folders, uses });
    }
    ensure!(rows.len() > 5, "ARCHITECTURE.md has a table of {} crates", rows.len());
    Ok(rows)
}

#[test]
fn crates_use_only_what_the_table_allows() -> Result<()> {
    let (metadata, rows, root) = (metadata()?, table()?, root());
    let folder = |path: &Path| path.strip_prefix(&root).map(|path| path.display().to_string());
    let mut wrong = Vec::new();
    for package in metadata.packages.iter().filter(|package| metadata.workspace_members.contains(&package.id))
    {
        let own = folder(package.manifest_path.parent().context("a manifest lies in a folder")?)?;
        let Some(row) = rows.iter().find(|row| row.folders.contains(&own)) else {
            wrong.push(format!("{own} is in no row"));
            continue;
        };
        let Uses::Only(allowed) = &row.uses else { continue };
        // Of every kind: a test that needs another binary belongs into `tests`.
        for path in package.dependencies.iter().filter_map(|dependency| dependency.path.as_deref()) {
            let used = folder(path)?;
            if used != own && !allowed.contains(&used) {
                wrong.push(format!("{own} may not use {used}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "ARCHITECTURE.md says otherwise: {}", wrong.join("; "));
    Ok(())
}

#[test]
fn pure_crates_reach_no_edge() -> Result<()> {
    for name in PURE {
        let reached = reach(name)?;
        let edges: Vec<_> = EDGES.iter().filter(|edge| reached.contains(**edge)).collect();
        ensure!(edges.is_empty(), "{name} reaches {edges:?}");
    }
    // The names above are those that an edge has: a crate at the edge reaches them.
    let agent = reach("antrea-agent")?;
    let known = EDGES.iter().filter(|edge| agent.contains(**edge)).count();
    ensure!(known > EDGES.len() / 2, "of the edges that are looked for, the agent reaches {known}");
    Ok(())
}

#[test]
fn pure_crates_do_not_use_the_edges_of_std() -> Result<()> {
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                sources(&path, found)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut files = Vec::new();
    for folder in [
        "crates/openflow/src",
        "crates/packet/src",
        "crates/policy/src",
        "crates/flows/src",
        "crates/enforce/src",
        "crates/proxy/src",
    ] {
        sources(&root().join(folder), &mut files)?;
    }
    ensure!(files.len() > 30, "only {} sources", files.len());
    let named = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        name == "tests" || name == "tests.rs" || name.ends_with("_tests") || name.ends_with("_tests.rs")
    };
    let tests = |path: &Path| path.iter().any(named);
    for path in files.into_iter().filter(|path| !tests(path)) {
        let text = std::fs::read_to_string(&path)?;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for edge in STD_EDGES {
            ensure!(!code.contains(edge), "{}: {edge}", path.display());
        }
    }
    Ok(())
}
