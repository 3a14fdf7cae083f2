//! The tools: read, compare, write what differs.

use tokio::sync::Mutex;
use tracing::debug;

use super::{
    backend::Backend,
    ruleset::{Jump, Plan, Ruleset, Saved, Table, plan},
};
use crate::{Error, Family, NetcfgErrors, Netns, Part, Result, kernel_has, process};

/// How names of this project's chains begin.
pub const CHAIN_PREFIX: &str = "ANTREA-";

/// What an application did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The input given to `iptables-restore`; empty if it was not run.
    pub restored: String,
    /// Number of jumps added.
    pub jumps_added: usize,
}

impl Applied {
    /// Whether everything was in place.
    pub fn is_unchanged(&self) -> bool {
        self.restored.is_empty() && self.jumps_added == 0
    }
}

/// One family's rules in one namespace, through one backend.
#[derive(Debug)]
pub struct Iptables {
    netns: Netns,
    backend: Backend,
    family: Family,
    prefix: String,
    last: Mutex<Option<Remembered>>,
}

/// The kernel's picture of our chains right after a desired state was written: rules that this version of the
/// tools prints in a form we do not read would otherwise be written again every time.
#[derive(Debug)]
struct Remembered {
    desired: Ruleset,
    image: String,
}

impl Iptables {
    /// Manages chains that begin with [`CHAIN_PREFIX`].
    pub fn new(netns: Netns, backend: Backend, family: Family) -> Self {
        Self::with_prefix(netns, backend, family, CHAIN_PREFIX)
    }

    /// Manages chains that begin with `prefix`.
    pub fn with_prefix(netns: Netns, backend: Backend, family: Family, prefix: &str) -> Self {
        Self { netns, backend, family, prefix: prefix.to_owned(), last: Mutex::new(None) }
    }

    pub fn family(&self) -> Family {
        self.family
    }

    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Reads the rules of all tables.
    pub async fn save(&self) -> Result<Saved> {
        process::run(&self.netns, self.backend.save(self.family), &[], None).await?.parse()
    }

    /// Makes our chains and the jumps to them the desired ones. Runs nothing but `iptables-save` if they are.
    ///
    /// Each table changes at once or not at all, except that jumps come one by one where nothing else is missing.
    pub async fn apply(&self, desired: &Ruleset) -> Result<Applied> {
        if desired.family != self.family {
            return Err(Error::Invalid {
                what: "ruleset",
                value: desired.family.to_string(),
                reason: "of another family than the handle",
            });
        }
        let mut last = self.last.lock().await;
        let saved = self.save().await?;
        if last.as_ref().is_some_and(|l| l.desired == *desired && l.image == saved.image(&self.prefix)) {
            return Ok(Applied::default());
        }
        *last = None;
        let plan = plan(&saved, desired, &self.prefix);
        let applied = if plan.is_empty() { Applied::default() } else { self.execute(&plan).await? };
        let after = if applied.is_unchanged() { saved } else { self.save().await? };
        *last = Some(Remembered { desired: desired.clone(), image: after.image(&self.prefix) });
        Ok(applied)
    }

    async fn execute(&self, plan: &Plan) -> Result<Applied> {
        let restored = plan.restore_text();
        if !restored.is_empty() {
            self.restore(&restored).await?;
        }
        self.add_jumps(&plan.jumps).await?;
        debug!(backend = ?self.backend, family = %self.family, %plan, "iptables changed");
        Ok(Applied { restored, jumps_added: plan.restored_jumps + plan.jumps.len() })
    }

    async fn restore(&self, text: &str) -> Result<()> {
        let program = self.backend.restore(self.family);
        process::run(&self.netns, program, &["--noflush", "--wait"], Some(text.to_owned()))
            .await
            .map(drop)
            .map_err(|e| process::show_line(e, text))
    }

    async fn add_jumps(&self, jumps: &[(Table, Jump)]) -> Result<()> {
        if jumps.is_empty() {
            return Ok(());
        }
        let (program, family) = (self.backend.program(self.family), self.family);
        let jumps = jumps.to_vec();
        // The crate starts processes and waits for them, so it needs a thread; one inside the namespace.
        self.netns.run(move || add_jumps_here(program, family, &jumps)).await?
    }

    /// Removes the jumps to our chains and the chains, table by table. Goes on after a failure. Rules of
    /// others that jump to one of our chains keep it, which is reported.
    pub async fn cleanup(&self) -> Result<(), NetcfgErrors> {
        let mut last = self.last.lock().await;
        *last = None;
        let saved = self.save().await?;
        let plan = plan(&saved, &Ruleset::new(self.family), &self.prefix);
        let mut errors = NetcfgErrors::new();
        for text in plan.restore.values() {
            errors.check(self.restore(text).await);
        }
        errors.finish(())
    }
}

fn add_jumps_here(program: &'static str, family: Family, jumps: &[(Table, Jump)]) -> Result<()> {
    let failed = |what: String| {
        move |e: Box<dyn std::error::Error>| Error::Command {
            command: what,
            status: "failed".to_owned(),
            stderr: e.to_string().trim().to_owned(),
        }
    };
    // Probes what this version of the tools can do; the program's name it takes is replaced by the backend's.
    let mut tool = ::iptables::new(family == Family::V6).map_err(failed(format!("{program} --version")))?;
    tool.cmd = program;
    tool.set_numeric(true);
    for (table, Jump { from, rule, first }) in jumps {
        let text = rule.to_string();
        let place = if *first { "-I" } else { "-A" };
        let what = format!("{program} -t {table} {place} {from} {text}");
        // Somebody may have added it since it was found missing: the check is part of the call.
        let present = tool.exists(table.name(), from, &text).map_err(failed(what.clone()))?;
        match (present, first) {
            (true, _) => {}
            (false, true) => tool.insert(table.name(), from, &text, 1).map_err(failed(what))?,
            (false, false) => tool.append(table.name(), from, &text).map_err(failed(what))?,
        }
    }
    Ok(())
}

/// The backends and families that hold a chain with [`CHAIN_PREFIX`] or a jump to one, and why it cannot be told of others.
/// A backend whose tools are not installed, or that the kernel lacks, holds nothing.
pub async fn in_use(netns: &Netns) -> (Vec<Iptables>, NetcfgErrors) {
    let (mut found, mut errors) = (Vec::new(), NetcfgErrors::new());
    for backend in Backend::BOTH {
        // The legacy tools find nothing where the kernel lacks their part of it.
        let lacks =
            async || backend == Backend::Nft && kernel_has(netns, Part::Nftables).await.is_ok_and(|has| !has);
        for family in Family::BOTH {
            let iptables = Iptables::new(netns.clone(), backend, family);
            match iptables.save().await {
                Ok(saved) if plan(&saved, &Ruleset::new(family), CHAIN_PREFIX).is_empty() => {}
                Ok(_) => found.push(iptables),
                Err(error) if error.is_missing_program() || lacks().await => {}
                Err(error) => errors.push(error),
            }
        }
    }
    (found, errors)
}

/// Removes everything with [`CHAIN_PREFIX`] from both backends and both families. Goes on after a failure.
///
/// # Errors
/// Everything that could not be removed or looked at.
pub async fn cleanup_all(netns: &Netns) -> Result<(), NetcfgErrors> {
    let (found, mut errors) = in_use(netns).await;
    for iptables in found {
        errors.check_all(iptables.cleanup().await);
    }
    errors.finish(())
}
