//! Network namespaces: a handle, its identity, and threads that work inside.

use std::{
    fmt,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
};
use tokio::sync::oneshot;

use crate::{Error, Result};

/// An open network namespace. Cloning shares the handle; the namespace lives at least as long as a handle does.
///
/// `setns` changes the calling *thread*, so it never runs on a runtime thread: everything inside the
/// namespace happens on a thread made for it, which ends afterwards.
#[derive(Clone)]
pub struct Netns {
    file: Arc<File>,
    id: NetnsId,
    origin: Arc<Path>,
}

/// What makes a namespace the same as another: device and inode of its `nsfs` file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NetnsId {
    /// Device number of nsfs.
    pub dev: u64,
    /// Inode number, as in `net:[4026531840]`.
    pub inode: u64,
}

impl Netns {
    /// Opens the namespace at `path`, e.g. `/run/netns/NAME` or `/proc/PID/ns/net`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let what = || format!("open network namespace {}", path.display());
        let file = File::open(path).map_err(|e| Error::io(what(), e))?;
        // An ordinary file here (a container runtime that already unmounted the namespace) would only fail
        // later, in setns, with a bare EINVAL.
        let stat = nix::sys::statfs::fstatfs(&file).map_err(|e| Error::errno_of(what(), e))?;
        if stat.filesystem_type() != nix::sys::statfs::NSFS_MAGIC {
            return Err(Error::Invalid {
                what: "network namespace path",
                value: path.display().to_string(),
                reason: "not a namespace file",
            });
        }
        Self::from_file(file, path.to_owned())
    }

    /// Opens the namespace at `path` if it is there. `None`: nothing is, or an ordinary file of which a runtime has already
    /// unmounted the namespace.
    ///
    /// # Errors
    /// That it is there or not cannot be told: the process has too many files, may not look, or the like.
    pub fn find(path: impl AsRef<Path>) -> Result<Option<Self>> {
        match Self::open(path) {
            Ok(found) => Ok(Some(found)),
            Err(Error::Invalid { .. }) => Ok(None),
            Err(error) => match error.errno() {
                Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// A new, empty namespace (only `lo`, down) that has no name and ends with its last handle.
    pub async fn unshare() -> Result<Self> {
        on_thread("netns-new", || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| Error::errno_of("unshare network namespace", e))?;
            Self::current()
        })
        .await?
    }

    fn from_file(file: File, origin: PathBuf) -> Result<Self> {
        let meta = file.metadata().map_err(|e| Error::io(format!("stat {}", origin.display()), e))?;
        let id = NetnsId { dev: meta.dev(), inode: meta.ino() };
        Ok(Self { file: Arc::new(file), id, origin: origin.into() })
    }

    /// Device and inode.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// The path it was opened by.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// Runs `f` on a thread of its own inside the namespace. For what needs the thread to be there: files
    /// below `/proc/sys/net`, sockets, processes to start.
    pub async fn run<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let this = self.clone();
        on_thread("netns-run", move || this.enter().map(|()| f())).await?
    }

    /// Moves the calling thread into the namespace. Only for threads that end afterwards.
    fn enter(&self) -> Result<()> {
        setns(&*self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::errno_of(format!("enter network namespace {self}"), e))
    }
}

/// Runs `f` on a plain thread; the runtime's own blocking pool would keep a changed thread for reuse.
async fn on_thread<T, F>(name: &str, f: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (tx, rx) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let _entered = runtime.enter();
            // The receiver is gone only if the caller gave up waiting.
            let _ = tx.send(f());
        })
        .map_err(|e| Error::io(format!("start thread {name}"), e))?;
    rx.await.map_err(|_| Error::io(format!("thread {name}"), io::Error::other("ended without a result")))
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Netns {}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (net:[{}])", self.origin.display(), self.id.inode)
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
