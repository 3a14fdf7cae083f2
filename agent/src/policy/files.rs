//! What the controller said last, on disk: for an agent that starts while there is no controller.
//!
//! Each object is a file in its envelope, as on the wire, in `network-policies`, `applied-to-groups` or
//! `address-groups` under one folder: upstream's layout. Objects that go away take their file along.
//! File `complete` says that all objects have been written once: without it nothing can be concluded from those
//! that are there, or from their absence.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use antrea_api::controlplane::{AddressGroup, AppliedToGroup, Event, NetworkPolicy};
use antrea_api::k8s::{self, DecodeError, EventType, Object};
use sha1::{Digest, Sha1};

use antrea_enforce::cache::{Kind, Save};

/// Begins the name of a file that is being written; no object's name begins with a dot.
const PART: &str = ".part-";

/// Name of the file that says that the others are all there is.
const COMPLETE: &str = "complete";

/// The folder.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
}

/// What could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub struct FileError {
    path: PathBuf,
    error: io::Error,
}

fn subfolder(kind: Kind) -> &'static str {
    match kind {
        Kind::Policies => "network-policies",
        Kind::AddressGroups => "address-groups",
        Kind::AppliedToGroups => "applied-to-groups",
    }
}

/// The file's name for an object: its own where that can be one, else a digest of it, so that nothing is left
/// out of the record.
fn file_name(name: &str) -> Cow<'_, str> {
    let fits = !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(['/', '\0']);
    if fits {
        return name.into();
    }
    Sha1::digest(name).iter().fold("~".to_owned(), |name, byte| format!("{name}{byte:02x}")).into()
}

impl Files {
    /// Files below `folder`, which is made when needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Where the ids of rules are kept beside the objects.
    pub fn rule_ids(&self) -> PathBuf {
        self.folder.join("rule-ids.json")
    }

    /// Where it is kept which connections ended.
    pub fn ended(&self) -> PathBuf {
        self.folder.join("ended.json")
    }

    /// Where what DNS has told is kept.
    pub fn dns(&self) -> PathBuf {
        self.folder.join("dns.json")
    }

    /// Reads everything, as [`Self::read`] does. None if it was never written to its end, or if of an object
    /// nothing at all can be read.
    pub fn load(&self) -> Option<Vec<(Kind, Event)>> {
        if !self.folder.join(COMPLETE).exists() {
            return None;
        }
        let (events, unreadable) = self.read();
        (unreadable == 0).then_some(events)
    }

    /// Remembers that everything has been written.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn mark_complete(&self) -> Result<(), FileError> {
        let path = self.folder.join(COMPLETE);
        let made = std::fs::create_dir_all(&self.folder).and_then(|()| std::fs::write(&path, b""));
        made.map_err(|error| FileError { path, error })
    }

    /// Says that the files may be older than what is in force: nothing is to be concluded from them. Returns whether that
    /// is said.
    pub fn mark_incomplete(&self) -> bool {
        let path = self.folder.join(COMPLETE);
        let removed = remove(&path);
        if let Err(error) = &removed {
            tracing::error!(path = %path.display(), %error, "a record that may be stale cannot be marked as such");
        }
        removed.is_ok()
    }

    /// Events that add everything that is there, groups first, and the number of files that cannot be read.
    pub(super) fn read(&self) -> (Vec<(Kind, Event)>, usize) {
        let (mut events, mut unreadable) = (Vec::new(), 0);
        for kind in Kind::ALL {
            let Ok(entries) = std::fs::read_dir(self.folder.join(subfolder(kind))) else { continue };
            let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort_unstable();
            for path in paths.iter().filter(|path| !is_part(path)) {
                match std::fs::read(path)
                    .map_err(|error| error.to_string())
                    .and_then(|bytes| decode(kind, bytes).map_err(|error| error.to_string()))
                {
                    Ok(event) => events.push((kind, event)),
                    Err(error) => {
                        unreadable += 1;
                        tracing::error!(path = %path.display(), error, "unreadable");
                    }
                }
            }
        }
        (events, unreadable)
    }

    /// Writes and removes files; goes on after an error. Policies come after their groups and go before them, so
    /// that whoever reads in between finds no policy without the pods that it isolates.
    ///
    /// # Errors
    /// The first file that failed.
    pub fn save(&self, saves: &[Save]) -> Result<(), FileError> {
        let mut result = Ok(());
        let mut saves: Vec<_> = saves.iter().collect();
        saves.sort_by_key(|save| {
            (save.bytes.is_none(), (save.kind == Kind::Policies) != save.bytes.is_none())
        });
        for Save { kind, name, bytes } in saves {
            let folder = self.folder.join(subfolder(*kind));
            let name = file_name(name);
            let path = folder.join(&*name);
            let saved = match bytes {
                Some(bytes) => write(&folder, &path, &name, bytes),
                None => remove(&path),
            };
            if let Err(error) = saved {
                result = result.and(Err(FileError { path, error }));
            }
        }
        result
    }

    /// Removes the files of all other objects of a kind.
    ///
    /// # Errors
    /// The first file that failed.
    pub fn retain(&self, kind: Kind, names: &HashSet<Arc<str>>) -> Result<(), FileError> {
        let folder = self.folder.join(subfolder(kind));
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
        let names: HashSet<_> = names.iter().map(|name| file_name(name)).collect();
        let mut result = Ok(());
        for path in entries.flatten().map(|entry| entry.path()) {
            let wanted =
                path.file_name().and_then(|name| name.to_str()).is_some_and(|name| names.contains(name));
            if !wanted && let Err(error) = remove(&path) {
                result = result.and(Err(FileError { path, error }));
            }
        }
        result
    }
}

fn is_part(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with(PART))
}

/// Readers see the old file or the new one.
fn write(folder: &Path, path: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    // A name of full length leaves no room for a prefix.
    let part = folder.join(format!("{PART}{}", name.chars().take(60).collect::<String>()));
    let written = std::fs::File::create(&part)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn decode(kind: Kind, bytes: Vec<u8>) -> Result<Event, DecodeError> {
    let object = k8s::open(bytes.into())?;
    let wanted = match kind {
        Kind::Policies => NetworkPolicy::KIND,
        Kind::AddressGroups => AddressGroup::KIND,
        Kind::AppliedToGroups => AppliedToGroup::KIND,
    };
    if object.kind != wanted {
        return Err(DecodeError::Kind { api_version: object.api_version, kind: object.kind });
    }
    Event::read(EventType::Added, &object)
}

#[cfg(test)]
mod tests {
    use antrea_api::k8s::ObjectMeta;

    use super::*;

    fn policy(name: &str) -> NetworkPolicy {
        NetworkPolicy { metadata: ObjectMeta::named(name), ..NetworkPolicy::default() }
    }

    fn save(name: &str, bytes: Option<Vec<u8>>) -> Save {
        Save { kind: Kind::Policies, name: name.into(), bytes }
    }

    fn names(files: &Files) -> Vec<String> {
        files
            .read()
            .0
            .into_iter()
            .map(|(_, event)| match event {
                Event::Policy(policy) => policy.metadata.name,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn keeps_replaces_and_removes() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path().join("networkpolicy"));
        assert!(files.read().0.is_empty());
        files.save(&[save("a", Some(policy("a").seal())), save("b", Some(policy("b").seal()))]).unwrap();
        assert_eq!(names(&files), ["a", "b"]);
        files.save(&[save("a", None), save("a", None), save("gone", None)]).unwrap();
        assert_eq!(names(&files), ["b"]);
        files.save(&[save("c", Some(policy("c").seal()))]).unwrap();
        files.retain(Kind::Policies, &HashSet::from(["c".into()])).unwrap();
        assert_eq!(names(&files), ["c"]);
        let left = std::fs::read_dir(folder.path().join("networkpolicy/network-policies")).unwrap().count();
        assert_eq!(left, 1, "no partial file is left");
    }

    #[test]
    fn damaged_files_and_evil_names_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path());
        let long = "x".repeat(300);
        let evil = ["../evil", "", ".", "a/b", &long];
        let saves: Vec<_> = evil.iter().map(|name| save(name, Some(policy(name).seal()))).collect();
        files.save(&saves).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the one of policies");
        let mut kept = names(&files);
        kept.sort();
        assert_eq!(kept, ["", ".", "../evil", "a/b", &long]);
        files.retain(Kind::Policies, &HashSet::from(["a/b".into()])).unwrap();
        assert_eq!(names(&files), ["a/b"]);
        files.save(&[save("a/b", None)]).unwrap();

        files.save(&[save("good", Some(policy("good").seal()))]).unwrap();
        std::fs::write(folder.path().join("network-policies/bad"), b"k8s\0\xff\xff").unwrap();
        std::fs::write(folder.path().join("network-policies/.part-x"), b"").unwrap();
        let group = AddressGroup::default().seal();
        std::fs::write(folder.path().join("network-policies/group"), group).unwrap();
        assert_eq!(names(&files), ["good"]);
    }

    #[test]
    fn what_was_never_complete_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path().join("new"));
        assert!(files.load().is_none());
        files.save(&[save("a", Some(policy("a").seal()))]).unwrap();
        assert!(files.load().is_none());
        files.mark_complete().unwrap();
        assert_eq!(files.load().unwrap().len(), 1);
        files.retain(Kind::Policies, &HashSet::new()).unwrap();
        assert_eq!(files.load().unwrap().len(), 0, "that there is no policy is known");
        files.save(&[save("a", Some(policy("a").seal())), save("b", Some(b"rubbish".to_vec()))]).unwrap();
        assert!(files.load().is_none(), "what b forbade is not known");
    }

    #[test]
    fn a_full_length_name_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path());
        let name = "x".repeat(253);
        files.save(&[save(&name, Some(policy(&name).seal()))]).unwrap();
        assert_eq!(names(&files), [name]);
    }

    #[test]
    fn what_is_saved_loads_again() {
        use antrea_enforce::cache::Cache;
        use antrea_enforce::testing::{
            self, address_group, address_patch, applied_to_group, kind_of, member,
        };

        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path());
        let mut cache = Cache::default();
        let members = vec![member("x", &["10.0.0.1"]), member("y", &["10.0.0.2"])];
        let policy = |name| Event::Policy(testing::policy(name, 7, "a", &["g"]));
        for event in [
            applied_to_group("a", &["p"]),
            address_group("g", members),
            policy("P"),
            policy("Q"),
            address_patch("g", vec![member("x", &[])], vec![]),
            Event::PolicyDeleted("Q".into()),
        ] {
            cache.apply(kind_of(&event), event).unwrap();
        }
        files.save(&cache.take_unsaved()).unwrap();
        assert!(!cache.has_unsaved());

        let mut loaded = Cache::default();
        // A list that began before the files were read replaces them later.
        loaded.begin(Kind::Policies);
        files.mark_complete().unwrap();
        loaded.load(files.load().unwrap());
        assert_eq!(loaded.counts(), [1, 1, 1]);
        assert!(!loaded.has_unsaved());
        assert_eq!(loaded.realizable("P"), cache.realizable("P"));
        let ips: Vec<_> = loaded.address_group("g").unwrap().ips().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.0.0.2"]);
        let pods = |cache: &Cache| {
            cache.applied_to_group("a").unwrap().members().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(pods(&loaded), pods(&cache));
        loaded.apply(Kind::Policies, Event::Bookmark).unwrap();
        assert_eq!(loaded.counts()[0], 0);
    }
}
