//! Writes the files of this repository that are made from others, and looks at what is shipped.
//!
//! `cargo xtask generate` writes them, `cargo xtask generate --check` only says which ones are stale.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use semver::Version;
use serde_json::json;

mod chart;
mod files;
mod generate;
mod lint;
mod metrics;
mod monitoring;
mod olm;
mod sbom;

/// Generated files and what is shipped.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the generated files of this repository.
    Generate {
        /// Only say which ones are stale.
        #[arg(long)]
        check: bool,
    },
    /// Check the folder of an OLM bundle, or of a file-based catalog.
    LintBundle {
        /// Folder with `manifests/`, or with files of a catalog.
        folder: PathBuf,
    },
    /// Write what is in `olm/`, for another version or other images.
    Bundle(Bundle),
    /// Say how the objects of two files differ; the order does not matter.
    Compare {
        /// A file of objects.
        first: PathBuf,
        /// Another.
        second: PathBuf,
        /// A kind that is left out.
        #[arg(long)]
        without: Option<String>,
    },
    /// Print the bill of materials of the shipped binaries, CycloneDX.
    Sbom,
    /// Print what OLM makes of a bundle: a JSON list of steps, each a List to apply.
    InstallPlan(InstallPlan),
}

#[derive(clap::Args)]
struct Bundle {
    /// Version without a "v".
    #[arg(long)]
    version: Version,
    /// Folder to write to.
    #[arg(long)]
    out: PathBuf,
    /// Reference of the operator's image; by default the version in the usual registry, as for the others.
    #[arg(long)]
    operator_image: Option<String>,
    /// Reference of the agent's image.
    #[arg(long)]
    agent_image: Option<String>,
    /// Reference of the controller's image.
    #[arg(long)]
    controller_image: Option<String>,
    /// Reference of the bundle's own image.
    #[arg(long)]
    bundle_image: Option<String>,
    /// When it was made, RFC 3339.
    #[arg(long)]
    created: Option<String>,
    /// Folder of `olm.bundle` blobs of earlier versions; this repository's by default.
    #[arg(long)]
    history: Option<PathBuf>,
}

#[derive(clap::Args)]
struct InstallPlan {
    /// Folder of the bundle.
    folder: PathBuf,
    /// Generation of OLM.
    #[arg(long, value_enum)]
    rules: olm::plan::Rules,
    /// Namespace that it installs into.
    #[arg(long)]
    namespace: String,
    /// Environment of the operator, NAME=VALUE, as a Subscription's config sets it.
    #[arg(long)]
    env: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Generate { check: false } => generate::write(),
        Command::Generate { check: true } => generate::check(),
        Command::LintBundle { folder } => lint_bundle(&folder),
        Command::Bundle(bundle) => write_bundle(bundle),
        Command::InstallPlan(plan) => install_plan(&plan),
        Command::Compare { first, second, without } => compare(&first, &second, without.as_deref()),
        Command::Sbom => {
            let text = format!("{:#}", sbom::document(&files::root())?);
            writeln!(std::io::stdout().lock(), "{text}").context("print")
        }
    }
}

fn lint_bundle(folder: &Path) -> Result<()> {
    let findings = if folder.join("manifests").is_dir() {
        lint::Bundle::load(folder)?.lint()
    } else {
        let catalog = lint::Catalog::load(folder)?;
        ensure!(!catalog.blobs.is_empty(), "{}: neither a bundle nor a catalog", folder.display());
        catalog.lint()
    };
    for finding in &findings {
        eprintln!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.level == lint::Level::Error).count();
    if errors > 0 {
        bail!("{}: {errors} errors", folder.display());
    }
    Ok(())
}

fn compare(first: &Path, second: &Path, without: Option<&str>) -> Result<()> {
    let read = |path: &Path| {
        let mut objects = files::documents(path)?;
        objects.retain(|object| without.is_none_or(|kind| object["kind"] != kind));
        anyhow::Ok(objects)
    };
    let found = chart::differences(&read(first)?, &read(second)?);
    ensure!(found.is_empty(), "{} and {}: {}", first.display(), second.display(), found.join("; "));
    Ok(())
}

fn write_bundle(given: Bundle) -> Result<()> {
    let root = files::root();
    let mut images = olm::Images::of(&given.version);
    for (image, given) in [
        (&mut images.operator, given.operator_image),
        (&mut images.agent, given.agent_image),
        (&mut images.controller, given.controller_image),
        (&mut images.bundle, given.bundle_image),
    ] {
        if let Some(given) = given {
            *image = given;
        }
    }
    let history = match given.history {
        Some(folder) => olm::history(&folder)?,
        None => olm::Release::current(&root)?.history,
    };
    let release = olm::Release { version: given.version, images, created: given.created, history };
    olm::write(&given.out, &olm::files(&root, &release)?)
}

fn install_plan(given: &InstallPlan) -> Result<()> {
    let bundle = lint::Bundle::load(&given.folder)?;
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').with_context(|| format!("--env {text}: no NAME=VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    let env = given.env.iter().map(pair).collect::<Result<Vec<_>>>()?;
    let install = olm::plan::Install { rules: given.rules, namespace: &given.namespace, env: &env };
    let list = |items| json!({"apiVersion": "v1", "kind": "List", "items": items});
    let steps: Vec<_> = olm::plan::steps(&bundle, &install)?.into_iter().map(list).collect();
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&steps)?)?;
    Ok(())
}
