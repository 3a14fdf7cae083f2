//! The tool: read, compare, write what differs.

use tokio::sync::Mutex;

use super::found::Found;
use super::plan::{Plan, plan, whole};
use super::table::{Table, keyword};
use crate::{Error, Family, Netns, Result, process};

/// A table of one family in one namespace.
#[derive(Debug)]
pub struct Nft {
    netns: Netns,
    family: Family,
    name: &'static str,
    last: Mutex<Option<Remembered>>,
}

/// What was found right after a table was written: what this version of nft prints in a form that we do not read would
/// otherwise be written again every time.
#[derive(Debug)]
struct Remembered {
    desired: Table,
    found: Found,
}

impl Nft {
    /// The table `name` of a family.
    pub fn new(netns: Netns, family: Family, name: &'static str) -> Self {
        Self { netns, family, name, last: Mutex::new(None) }
    }

    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether the table is there.
    ///
    /// # Errors
    /// There is no nft, or the kernel has no nftables.
    pub async fn exists(&self) -> Result<bool> {
        Ok(self.read().await?.is_some())
    }

    /// Makes the table the desired one, at once or not at all. Returns what differed, for people.
    ///
    /// # Errors
    /// The table is as it was.
    pub async fn apply(&self, desired: &Table) -> Result<Vec<String>> {
        if (desired.family, desired.name) != (self.family, self.name) {
            return Err(Error::Invalid {
                what: "table",
                value: format!("{} {}", keyword(desired.family), desired.name),
                reason: "of another handle",
            });
        }
        let mut last = self.last.lock().await;
        let found = self.read().await?;
        if last.as_ref().is_some_and(|last| last.desired == *desired && found.as_ref() == Some(&last.found)) {
            return Ok(Vec::new());
        }
        *last = None;
        let all = |why: &str| Plan {
            commands: whole(desired),
            differences: vec![format!("table {} of {} {why}", self.name, self.family)],
        };
        let mut todo = match &found {
            None => all("was missing"),
            Some(found) => plan(found, desired).unwrap_or_else(|| all("was another one")),
        };
        if todo.commands.is_empty() {
            *last = found.map(|found| Remembered { desired: desired.clone(), found });
            return Ok(Vec::new());
        }
        if let Err(error) = self.write(&todo.commands).await {
            let anew = all("could not be changed and was made anew");
            if todo.commands == anew.commands {
                return Err(error);
            }
            tracing::warn!(%error, table = self.name, "making the table anew");
            self.write(&anew.commands).await?;
            todo = anew;
        }
        // Parts are changed of what could be read; only after all was written it may be that something cannot.
        if todo.commands == whole(desired) {
            *last = self.read().await?.map(|found| Remembered { desired: desired.clone(), found });
        }
        Ok(todo.differences)
    }

    /// Deletes the table, if it is there.
    ///
    /// # Errors
    /// It is there still.
    pub async fn delete(&self) -> Result<()> {
        if self.exists().await? {
            let (family, name) = (keyword(self.family), self.name);
            process::run(&self.netns, "nft", &["delete", "table", family, name], None).await?;
        }
        Ok(())
    }

    async fn write(&self, commands: &str) -> Result<()> {
        process::run(&self.netns, "nft", &["-f", "-"], Some(commands.to_owned())).await.map(drop)
    }

    async fn read(&self) -> Result<Option<Found>> {
        let arguments = ["-j", "list", "table", keyword(self.family), self.name];
        match process::run(&self.netns, "nft", &arguments, None).await {
            Ok(json) => Found::read(&json).map(Some),
            Err(Error::Command { stderr, .. }) if stderr.contains("No such file or directory") => Ok(None),
            Err(error) => Err(error),
        }
    }
}
