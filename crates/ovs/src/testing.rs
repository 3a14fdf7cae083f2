//! A private Open vSwitch for tests: its own database, daemons and run directory, optionally in a network namespace.
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! let dir = std::path::Path::new("/tmp/example-ovs");
//! let mut ovs = ovs::testing::TestOvs::start(dir, None)?;
//! ovs.vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy"])?;
//! ovs.kill_vswitchd()?;
//! ovs.start_vswitchd()?;
//! # Ok(()) }
//! ```
//!
//! ovs-vswitchd runs with `--enable-dummy`, so that bridges of `datapath_type=dummy` with interfaces of
//! `type=dummy` work without a kernel module or privileges in any namespace. Bridges of `datapath_type=netdev` make
//! tap devices: give such tests a namespace.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    OfConfig, OfHandle, OfSession, Vswitch,
    vswitch::{BridgeSpec, FailMode},
};

const START_LIMIT: Duration = Duration::from_secs(30);
/// For everything that the daemons are asked for.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Running daemons and their files; dropped, they are killed. The directory is left to its owner.
#[derive(Debug)]
pub struct TestOvs {
    dir: PathBuf,
    netns: Option<String>,
    confinement: Vec<String>,
    db_server: Option<Child>,
    vswitchd: Option<Child>,
}

impl TestOvs {
    /// Creates a database in `dir` (made if missing; keep the path below 80 bytes, it holds unix sockets) and starts
    /// both daemons, in the named network namespace if one is given. Returns when both serve.
    ///
    /// # Errors
    /// A program is missing or a daemon does not come up within 30 s; the text holds the daemon's last log lines.
    pub fn start(dir: &Path, netns: Option<&str>) -> io::Result<Self> {
        let mut ovs = Self::start_db_only(dir, netns)?;
        ovs.start_vswitchd()?;
        Ok(ovs)
    }

    /// As [`TestOvs::start`], without ovs-vswitchd.
    ///
    /// # Errors
    /// As [`TestOvs::start`].
    pub fn start_db_only(dir: &Path, netns: Option<&str>) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut ovs = Self {
            dir: dir.to_owned(),
            netns: netns.map(str::to_owned),
            confinement: Vec::new(),
            db_server: None,
            vswitchd: None,
        };
        ovs.create_db()?;
        Ok(ovs)
    }

    /// Creates the database unless it is there, and starts ovsdb-server.
    ///
    /// # Errors
    /// As [`TestOvs::start`].
    pub fn create_db(&mut self) -> io::Result<()> {
        let db = self.dir.join("conf.db");
        if !db.exists() {
            self.run("ovsdb-tool", &[OsStr::new("create"), db.as_os_str()])?;
        }
        self.start_db()?;
        self.vsctl(&["--no-wait", "init"]).map(drop)
    }

    /// Daemons that are started from here on have these capabilities and no others, as in a container.
    pub fn confine(&mut self, capabilities: &[&str]) {
        self.confinement = confinement(capabilities);
    }

    /// The run directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The database socket.
    #[must_use]
    pub fn db_sock(&self) -> PathBuf {
        self.dir.join("db.sock")
    }

    /// OpenFlow management socket of a bridge.
    #[must_use]
    pub fn mgmt_sock(&self, bridge: &str) -> PathBuf {
        self.dir.join(format!("{bridge}.mgmt"))
    }

    /// Process id of ovsdb-server while it runs.
    #[must_use]
    pub fn db_pid(&self) -> Option<u32> {
        self.db_server.as_ref().map(Child::id)
    }

    /// Process id of ovs-vswitchd while it runs.
    #[must_use]
    pub fn vswitchd_pid(&self) -> Option<u32> {
        self.vswitchd.as_ref().map(Child::id)
    }

    /// Starts ovsdb-server on the existing database.
    ///
    /// # Errors
    /// As [`TestOvs::start`].
    pub fn start_db(&mut self) -> io::Result<()> {
        let dir = self.dir.display();
        let args = [
            format!("{dir}/conf.db"),
            format!("--remote=punix:{dir}/db.sock"),
            format!("--unixctl={dir}/ovsdb.ctl"),
        ];
        let child = self.spawn("ovsdb-server", &args)?;
        self.db_server = Some(child);
        self.wait_socket("ovsdb-server", "db.sock")
    }

    /// Starts ovs-vswitchd.
    ///
    /// # Errors
    /// As [`TestOvs::start`].
    pub fn start_vswitchd(&mut self) -> io::Result<()> {
        let dir = self.dir.display();
        let args = [
            format!("unix:{dir}/db.sock"),
            format!("--pidfile={dir}/ovs-vswitchd.pid"),
            "--enable-dummy".to_owned(),
        ];
        let child = self.spawn("ovs-vswitchd", &args)?;
        let control = control_socket(child.id());
        self.vswitchd = Some(child);
        self.wait_socket("ovs-vswitchd", &control)
    }

    /// Kills ovsdb-server without warning.
    ///
    /// # Errors
    /// The process cannot be signalled.
    pub fn kill_db(&mut self) -> io::Result<()> {
        kill(&mut self.db_server)
    }

    /// Kills ovs-vswitchd without warning.
    ///
    /// # Errors
    /// The process cannot be signalled.
    pub fn kill_vswitchd(&mut self) -> io::Result<()> {
        kill(&mut self.vswitchd)
    }

    /// Runs `ovs-vsctl`, with a time limit of 20 s, and returns what it printed.
    ///
    /// # Errors
    /// The command failed; the text holds its error output.
    pub fn vsctl(&self, args: &[&str]) -> io::Result<String> {
        let db = format!("--db=unix:{}", self.db_sock().display());
        let all: Vec<&str> = [db.as_str(), "--timeout=20"].into_iter().chain(args.iter().copied()).collect();
        self.run("ovs-vsctl", &all)
    }

    /// Runs `ovs-ofctl -O OpenFlow15` with the command and its arguments after the bridge.
    ///
    /// # Errors
    /// As [`TestOvs::vsctl`].
    pub fn ofctl(&self, command: &[&str], bridge: &str, args: &[&str]) -> io::Result<String> {
        let target = format!("unix:{}", self.mgmt_sock(bridge).display());
        let all: Vec<&str> = ["-O", "OpenFlow15"]
            .into_iter()
            .chain(command.iter().copied())
            .chain([target.as_str()])
            .chain(args.iter().copied())
            .collect();
        self.run("ovs-ofctl", &all)
    }

    /// Runs `ovs-appctl` against ovs-vswitchd.
    ///
    /// # Errors
    /// As [`TestOvs::vsctl`].
    pub fn appctl(&self, args: &[&str]) -> io::Result<String> {
        let pid = self.vswitchd_pid().ok_or_else(|| io::Error::other("ovs-vswitchd does not run"))?;
        let target = self.dir.join(control_socket(pid));
        let all: Vec<&OsStr> =
            [OsStr::new("-t"), target.as_os_str()].into_iter().chain(args.iter().map(OsStr::new)).collect();
        self.run("ovs-appctl", &all)
    }

    /// Whether ovs-vswitchd runs or how it ended, with the last lines of its log: for tests that failed.
    pub fn post_mortem(&mut self) -> String {
        let state = match self.vswitchd.as_mut().map(Child::try_wait) {
            None => "not started".to_owned(),
            Some(Ok(None)) => "runs".to_owned(),
            Some(Ok(Some(status))) => format!("ended by itself: {status}"),
            Some(Err(error)) => error.to_string(),
        };
        format!("ovs-vswitchd: {state}\n{}", last_lines(&self.log("ovs-vswitchd"), 20).join("\n"))
    }

    /// Makes an empty bridge on the dummy datapath, and opens a session with it that ends with `cancel`.
    ///
    /// # Errors
    /// The daemons refuse, or do not answer in time.
    pub async fn dummy_bridge(&self, name: &str, cancel: &CancellationToken) -> io::Result<OfHandle> {
        let (vswitch, _) = Vswitch::spawn(self.db_sock(), cancel.clone());
        vswitch.wait_synced(ANSWER_LIMIT).await.map_err(io::Error::other)?;
        let bridge = BridgeSpec {
            name: name.to_owned(),
            datapath_type: "dummy".to_owned(),
            protocols: vec!["OpenFlow15".to_owned()],
            fail_mode: Some(FailMode::Secure),
            ..BridgeSpec::default()
        };
        vswitch.ensure_bridge(&bridge).await.map_err(io::Error::other)?;
        vswitch.wait_applied(ANSWER_LIMIT).await.map_err(io::Error::other)?;
        let (session, _) = OfSession::spawn(self.mgmt_sock(name), OfConfig::default(), cancel.clone());
        session.wait_connected(ANSWER_LIMIT).await.map_err(io::Error::other)?;
        Ok(session)
    }

    /// A command that runs in the namespace with Open vSwitch's directories set.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = match &self.netns {
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns, program]);
                command
            }
            None => Command::new(program),
        };
        for name in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(name, &self.dir);
        }
        command.stdin(Stdio::null());
        command
    }

    fn run<A: AsRef<OsStr>>(&self, program: &str, args: &[A]) -> io::Result<String> {
        let output = self.command(program).args(args).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{program}: {}: {}", output.status, stderr.trim())))
    }

    fn spawn(&self, program: &str, args: &[String]) -> io::Result<Child> {
        let log = self.log(program);
        let mut words = self.confinement.iter().map(String::as_str).chain([program]);
        let mut command = self.command(words.next().unwrap_or(program));
        command
            .args(words)
            .args(args)
            .arg(format!("--log-file={}", log.display()))
            .arg("-vconsole:off")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    }

    fn log(&self, program: &str) -> PathBuf {
        self.dir.join(format!("{program}.log"))
    }

    fn wait_socket(&self, program: &str, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        let end = Instant::now() + START_LIMIT;
        while Instant::now() < end {
            if UnixStream::connect(&path).is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(10));
        }
        let tail = last_lines(&self.log(program), 5).join(" | ");
        Err(io::Error::other(format!("{program} does not serve {}: {tail}", path.display())))
    }
}

fn last_lines(file: &Path, count: usize) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
}

/// The words before a command that give it these capabilities (`NET_ADMIN`) and no others: what a container
/// runtime does for `drop: [ALL]` with `allowPrivilegeEscalation: false`.
#[must_use]
pub fn confinement(capabilities: &[&str]) -> Vec<String> {
    let kept: String = capabilities.iter().map(|name| format!(",+{}", name.to_lowercase())).collect();
    [
        "setpriv",
        "--no-new-privs",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        &format!("--bounding-set=-all{kept}"),
    ]
    .map(str::to_owned)
    .to_vec()
}

fn control_socket(pid: u32) -> String {
    format!("ovs-vswitchd.{pid}.ctl")
}

fn kill(child: &mut Option<Child>) -> io::Result<()> {
    if let Some(mut child) = child.take() {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

impl Drop for TestOvs {
    fn drop(&mut self) {
        // The switch first: it would log the loss of its database.
        let _ = kill(&mut self.vswitchd);
        let _ = kill(&mut self.db_server);
    }
}
