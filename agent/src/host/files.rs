//! The CNI plugin, the plugins that it chains and their configuration, which an init container put on the node. Without
//! them the node gets no more pods, and the next start of the agent's pod may be far away.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Octets that are compared at once.
const CHUNK: usize = 64 * 1024;

/// Longest configuration that is kept, in octets.
const LONGEST: u64 = 64 * 1024;

/// Name of the configuration: runtimes take the first by name.
pub const CONFIGURATION: &str = "10-antrea.conflist";

/// Name of the plugin.
pub const PLUGIN: &str = "antrea";

/// Folders of the node, and where that which belongs there comes from.
#[derive(Clone, Debug)]
pub struct Sources {
    pub plugin: PathBuf,
    /// A folder with the plugins that it chains.
    pub chained: PathBuf,
    /// The configuration. It is read once: a newer one is for newer plugins, which come with a newer agent.
    pub configuration: PathBuf,
    /// The node's folder of plugins.
    pub plugins: PathBuf,
    /// The node's folder of configurations.
    pub configurations: PathBuf,
}

/// Files as they should be on the node.
#[derive(Debug, Default)]
pub struct Installed(Vec<Kept>);

/// A file as it should be.
#[derive(Debug)]
struct Kept {
    target: PathBuf,
    contents: Contents,
    mode: u32,
    /// What was found to be right; its contents are read again only when this differs.
    known: Option<Stamp>,
}

#[derive(Debug)]
enum Contents {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// What changes when a file is written or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    mode: u32,
}

/// What was wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Gone,
    Differed,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "was gone",
            Self::Differed => "differed",
        })
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            mode: metadata.mode() & 0o7777,
        }
    }
}

impl Installed {
    /// What `sources` has.
    ///
    /// # Errors
    /// A source cannot be read.
    pub fn read(sources: &Sources) -> io::Result<Self> {
        let mut configuration = Vec::new();
        File::open(&sources.configuration)?.take(LONGEST).read_to_end(&mut configuration)?;
        let program = |name: &Path, source| Kept {
            target: sources.plugins.join(name),
            contents: Contents::File(source),
            mode: 0o755,
            known: None,
        };
        let mut kept = vec![program(Path::new(PLUGIN), sources.plugin.clone())];
        for entry in fs::read_dir(&sources.chained)? {
            let entry = entry?;
            kept.push(program(Path::new(&entry.file_name()), entry.path()));
        }
        // Last, for from then on the runtime calls the others.
        kept.push(Kept {
            target: sources.configurations.join(CONFIGURATION),
            contents: Contents::Bytes(configuration),
            mode: 0o600,
            known: None,
        });
        Ok(Self(kept))
    }

    /// Puts back what differs. Returns what did, for people, and why the rest could not be put back. Blocks.
    pub(super) fn keep(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut done, mut problems) = (Vec::new(), Vec::new());
        for kept in &mut self.0 {
            let name = kept.target.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match kept.keep() {
                Ok(None) => {}
                Ok(Some(fault)) => done.push(format!("CNI file {name} {fault}")),
                Err(error) => problems.push(format!("CNI file {name}: {error}")),
            }
        }
        (done, problems)
    }
}

impl Kept {
    fn keep(&mut self) -> io::Result<Option<Fault>> {
        let fault = match fs::symlink_metadata(&self.target) {
            Ok(metadata) => {
                let found = Stamp::of(&metadata);
                if self.known.as_ref() == Some(&found) {
                    return Ok(None);
                }
                if metadata.is_file() && found.mode == self.mode && self.same()? {
                    self.known = Some(found);
                    return Ok(None);
                }
                Fault::Differed
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Fault::Gone,
            Err(error) => return Err(error),
        };
        self.put()?;
        self.known = Some(Stamp::of(&fs::symlink_metadata(&self.target)?));
        Ok(Some(fault))
    }

    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match &self.contents {
            Contents::Bytes(bytes) => Box::new(bytes.as_slice()),
            Contents::File(path) => Box::new(File::open(path)?),
        })
    }

    fn same(&self) -> io::Result<bool> {
        let (mut wanted, mut found) = (self.open()?, File::open(&self.target)?);
        let (mut of_wanted, mut of_found) = (Vec::new(), Vec::new());
        loop {
            for (reader, buffer) in
                [(&mut wanted as &mut dyn Read, &mut of_wanted), (&mut found, &mut of_found)]
            {
                buffer.clear();
                reader.take(CHUNK as u64).read_to_end(buffer)?;
            }
            if of_wanted != of_found {
                return Ok(false);
            }
            if of_wanted.is_empty() {
                return Ok(true);
            }
        }
    }

    /// The file appears complete, by rename, for the runtime may call or read it meanwhile. Runtimes read every
    /// configuration whose name ends as such: the unfinished one's does not.
    fn put(&self) -> io::Result<()> {
        let folder = self.target.parent().unwrap_or(Path::new("/"));
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        let part = folder.join(format!(".{name}.{}.part", std::process::id()));
        let written = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            let mut file = File::create(&part)?;
            io::copy(&mut self.open()?, &mut file)?;
            file.set_permissions(fs::Permissions::from_mode(self.mode))?;
            file.flush()?;
            file.sync_all()?;
            fs::rename(&part, &self.target)
        };
        written().inspect_err(|_| drop(fs::remove_file(&part)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// An image and a node on which the init container has run.
    fn installed() -> (tempfile::TempDir, Sources, Installed) {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for folder in ["image/chained", "bin", "conf"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("image/antrea-cni"), vec![7; 3 * CHUNK + 5]).unwrap();
        fs::write(at("image/chained/portmap"), "portmap").unwrap();
        fs::write(at("image/conf"), r#"{"name": "antrea"}"#).unwrap();
        let sources = Sources {
            plugin: at("image/antrea-cni"),
            chained: at("image/chained"),
            configuration: at("image/conf"),
            plugins: at("bin"),
            configurations: at("conf"),
        };
        let mut installed = Installed::read(&sources).unwrap();
        let (done, problems) = installed.keep();
        assert_eq!((done.len(), problems.len()), (3, 0), "{problems:?}");
        (root, sources, installed)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_somebody_changes_is_put_back_and_named() {
        let (root, sources, mut installed) = installed();
        assert_eq!(installed.keep(), (vec![], vec![]), "nothing differs");
        let (plugin, conf) = (sources.plugins.join("antrea"), sources.configurations.join(CONFIGURATION));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&plugin), mode(&conf)), (0o755, 0o600));

        type Damage = fn(&Path);
        let damages: [(Damage, &str); 6] = [
            (|file| fs::remove_file(file).unwrap(), "was gone"),
            (|file| fs::write(file, "").unwrap(), "differed"),
            // As long as before, and different in its last octet alone.
            (
                |file| {
                    let mut bytes = fs::read(file).unwrap();
                    *bytes.last_mut().unwrap() ^= 1;
                    fs::write(file, bytes).unwrap();
                },
                "differed",
            ),
            (|file| fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap(), "differed"),
            (
                |file| {
                    fs::remove_file(file).unwrap();
                    symlink("/dev/null", file).unwrap();
                },
                "differed",
            ),
            (|file| fs::remove_dir_all(file.parent().unwrap()).unwrap(), "was gone"),
        ];
        for (damage, fault) in damages {
            for file in [&plugin, &conf] {
                damage(file);
                let (done, problems) = installed.keep();
                let name = file.file_name().unwrap().to_str().unwrap();
                assert!(done.contains(&format!("CNI file {name} {fault}")), "{done:?}");
                assert_eq!(problems, Vec::<String>::new());
                assert_eq!(installed.keep(), (vec![], vec![]), "{name} {fault}");
            }
        }
        assert_eq!(fs::read(&plugin).unwrap(), fs::read(&sources.plugin).unwrap());
        assert_eq!(names(&sources.plugins), ["antrea", "portmap"], "nothing unfinished is left");
        assert_eq!(names(&sources.configurations), [CONFIGURATION]);
        drop(root);
    }

    #[test]
    fn files_of_others_stay_and_a_newer_configuration_waits_for_its_agent() {
        let (_root, sources, mut installed) = installed();
        fs::write(sources.plugins.join("multus"), "other").unwrap();
        fs::write(sources.configurations.join("00-multus.conf"), "{}").unwrap();
        fs::write(&sources.configuration, r#"{"name": "newer"}"#).unwrap();
        assert_eq!(installed.keep(), (vec![], vec![]));
        assert_eq!(names(&sources.configurations), ["00-multus.conf", CONFIGURATION]);
    }

    #[test]
    fn what_cannot_be_put_back_is_named_and_holds_up_nothing_else() {
        let (_root, sources, mut installed) = installed();
        let plugin = sources.plugins.join("antrea");
        fs::remove_file(&plugin).unwrap();
        // A folder in its place is nobody's to take away.
        fs::create_dir_all(plugin.join("in-the-way")).unwrap();
        fs::remove_file(sources.configurations.join(CONFIGURATION)).unwrap();
        let (done, problems) = installed.keep();
        assert_eq!(done, [format!("CNI file {CONFIGURATION} was gone")]);
        assert!(matches!(&*problems, [one] if one.starts_with("CNI file antrea: ")), "{problems:?}");
        assert_eq!(names(&sources.plugins), ["antrea", "portmap"], "nothing unfinished is left");
    }
}
