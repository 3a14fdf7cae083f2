//! Objects of an input that do not decode. What is known of them stays in force, the others go on, and people
//! are told.

use std::collections::BTreeMap;

use antrea_runtime::health::{BlockReady, Readiness};

/// Namespace (empty where there is none) and name.
pub(super) type Key = (String, String);

/// Objects that are named in a message; of the others it tells the number.
const NAMED: usize = 3;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Undecoded {
    /// Of the input, in the plural.
    resource: &'static str,
    now: BTreeMap<Key, String>,
    /// Of a list that is being received.
    listed: BTreeMap<Key, String>,
    problem: Option<BlockReady>,
}

impl Undecoded {
    pub(super) fn new(resource: &'static str) -> Self {
        Self { resource, now: BTreeMap::new(), listed: BTreeMap::new(), problem: None }
    }

    /// A list begins.
    pub(super) fn begin(&mut self) {
        self.listed.clear();
    }

    /// An object of the list came, with what is wrong with it.
    pub(super) fn list(&mut self, key: &Key, error: Option<&str>) {
        if let Some(error) = error {
            self.tell(key, error);
            self.listed.insert(key.clone(), error.to_owned());
        }
    }

    /// The list is complete.
    pub(super) fn end(&mut self) {
        self.now = std::mem::take(&mut self.listed);
    }

    /// An object came, with what is wrong with it, or went.
    pub(super) fn set(&mut self, key: &Key, error: Option<&str>) {
        match error {
            Some(error) => {
                self.tell(key, error);
                self.now.insert(key.clone(), error.to_owned());
            }
            None => {
                self.now.remove(key);
            }
        }
    }

    /// Number of objects that do not decode.
    pub(super) fn len(&self) -> usize {
        self.now.len()
    }

    /// Keeps `problems` up to date.
    pub(super) fn show(&mut self, problems: &Readiness) {
        if self.now.is_empty() {
            self.problem = None;
            return;
        }
        let resource = self.resource;
        let problem = self.problem.get_or_insert_with(|| problems.block(format!("undecodable {resource}")));
        let mut list: Vec<String> =
            self.now.iter().take(NAMED).map(|(key, error)| format!("{}: {error}", text(key))).collect();
        let more = self.now.len().saturating_sub(NAMED);
        if more > 0 {
            list.push(format!("{more} more"));
        }
        problem.set_reason(list.join(", "));
    }

    fn tell(&self, key: &Key, error: &str) {
        if self.now.get(key).is_none_or(|known| known != error) {
            let resource = self.resource;
            tracing::error!(
                resource,
                object = text(key),
                error,
                "does not decode; what is known of it stays"
            );
        }
    }
}

/// `NAMESPACE/NAME`, or the name of what has no namespace.
pub(super) fn text((namespace, name): &Key) -> String {
    if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") }
}
