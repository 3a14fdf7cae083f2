//! Whose each name of a pod's link is.
//!
//! A name has 24 bits of a hash (`cni::naming`), so two containers of one Deployment may ask for the same. Only
//! who holds the name may make or delete link and port of that name; who comes second is refused, and comes again
//! in another sandbox with another name.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::pods::interfaces::AttachmentKey;

/// Names that calls under way hold; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Claims(Arc<Mutex<BTreeMap<String, AttachmentKey>>>);

/// A name that a call holds until this is dropped.
#[derive(Debug)]
pub struct Claim {
    claims: Claims,
    name: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().remove(&self.name);
    }
}

impl Claims {
    /// Whether a call under way has the name.
    pub fn has(&self, name: &str) -> bool {
        self.0.lock().contains_key(name)
    }

    /// Takes `name` for `attachment`. `holder` tells which complete attachment has a name; it is asked while no
    /// other call can take or give back one.
    ///
    /// # Errors
    /// The attachment that has the name.
    pub fn take(
        &self,
        name: &str,
        attachment: &AttachmentKey,
        holder: impl FnOnce(&str) -> Option<AttachmentKey>,
    ) -> Result<Claim, AttachmentKey> {
        let mut held = self.0.lock();
        if let Some(other) = held.get(name).cloned().or_else(|| holder(name).filter(|key| key != attachment))
        {
            return Err(other);
        }
        held.insert(name.to_owned(), attachment.clone());
        Ok(Claim { claims: self.clone(), name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_or_attachment_has_a_name() {
        let key = |container: &str| (container.to_owned(), "eth0".to_owned());
        let claims = Claims::default();
        let first = claims.take("web-1", &key("a"), |_| None).unwrap();
        assert_eq!(claims.take("web-1", &key("b"), |_| None).unwrap_err(), key("a"));
        let second = claims.take("web-2", &key("b"), |_| None).unwrap();
        drop((first, second));
        assert_eq!(claims.take("web-1", &key("b"), |_| Some(key("a"))).unwrap_err(), key("a"));
        let own = claims.take("web-1", &key("a"), |_| Some(key("a")));
        assert!(own.is_ok(), "an attachment takes its own name for its DEL");
    }
}
