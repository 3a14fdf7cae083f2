//! Open vSwitch as the container antrea-ovs runs it: by `build/start_ovs`, which starts dead daemons again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::LabNode;

const START_OVS: &str = include_str!("../../build/start_ovs");
const LIMIT: Duration = Duration::from_secs(60);

/// A daemon of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// The database.
    OvsdbServer,
    /// The switch.
    Vswitchd,
}

impl Daemon {
    fn name(self) -> &'static str {
        match self {
            Self::OvsdbServer => "ovsdb-server",
            Self::Vswitchd => "ovs-vswitchd",
        }
    }
}

/// The container of one node; ended when dropped.
pub struct OvsContainer {
    script: PathBuf,
    netns: String,
    node: String,
    run: PathBuf,
    restarts: u32,
    child: Option<Child>,
}

impl OvsContainer {
    /// Ends the node's Open vSwitch and starts it again as the container does, on the same database. The container
    /// starts its daemons again `restarts` times.
    pub fn take_over(node: &mut LabNode, restarts: u32) -> Self {
        let script = node.dir.join("start_ovs");
        std::fs::write(&script, START_OVS).unwrap();
        node.ovs.kill_vswitchd().unwrap();
        node.ovs.kill_db().unwrap();
        let mut container = Self {
            script,
            netns: node.netns.clone(),
            node: node.name.clone(),
            run: node.ovs.dir().to_owned(),
            restarts,
            child: None,
        };
        container.start();
        container
    }

    /// Starts the container; returns when ovs-vswitchd serves.
    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, "sh"]).arg(&self.script);
        command.env("OVS_DBDIR", &self.run).env("OVS_RUNDIR", &self.run).env("NODE_NAME", &self.node);
        command.env("OVS_RESTARTS", self.restarts.to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        self.wait(|container| container.serves());
    }

    fn wait(&mut self, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !done(self) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the container ended\n{}", self.said());
            assert!(Instant::now() < end, "Open vSwitch does not serve\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn serves(&self) -> bool {
        let Some(pid) = pid_of(&self.run, Daemon::Vswitchd) else { return false };
        let control = self.run.join(format!("ovs-vswitchd.{pid}.ctl"));
        std::os::unix::net::UnixStream::connect(control).is_ok()
    }

    fn kill_daemons(&self, daemons: &[Daemon]) {
        for daemon in daemons {
            let pid = pid_of(&self.run, *daemon).unwrap();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
    }

    /// Kills daemons without warning and waits until the container has started both again.
    pub fn kill(&mut self, daemons: &[Daemon]) {
        let of = |run: &Path| [Daemon::OvsdbServer, Daemon::Vswitchd].map(|daemon| pid_of(run, daemon));
        let before = of(&self.run);
        self.kill_daemons(daemons);
        // Of one that died the other is not believed either.
        self.wait(|container| {
            let now = of(&container.run);
            container.serves() && now.iter().zip(before).all(|(now, before)| now.is_some() && *now != before)
        });
    }

    /// Kills ovs-vswitchd as one that cannot live does, until the container gives up; how often that was.
    pub fn exhaust(&mut self) -> u32 {
        let mut child = self.child.take().unwrap();
        let (end, mut deaths, mut killed) = (Instant::now() + LIMIT, 0, None);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "the container goes on for ever\n{}", self.said());
            let pid = pid_of(&self.run, Daemon::Vswitchd).filter(|pid| Some(*pid) != killed && runs(*pid));
            if let Some(pid) = pid.filter(|_| self.serves()) {
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
                (killed, deaths) = (Some(pid), deaths + 1);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(!status.success(), "the container ended as if asked to");
        self.nothing_is_left();
        deaths
    }

    /// Kills the container with both daemons, as the kernel does when memory is short.
    pub fn crash(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        self.kill_daemons(&[Daemon::Vswitchd, Daemon::OvsdbServer]);
        let end = Instant::now() + LIMIT;
        while [Daemon::Vswitchd, Daemon::OvsdbServer]
            .iter()
            .any(|one| pid_of(&self.run, *one).is_some_and(runs))
        {
            assert!(Instant::now() < end, "a killed daemon runs on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the container wrote.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn nothing_is_left(&self) {
        for daemon in [Daemon::OvsdbServer, Daemon::Vswitchd] {
            let left = pid_of(&self.run, daemon).filter(|pid| runs(*pid));
            assert_eq!(left, None, "{daemon:?} outlives the container");
        }
    }

    fn log(&self) -> PathBuf {
        self.run.join("start_ovs.log")
    }
}

fn pid_of(run: &Path, daemon: Daemon) -> Option<i32> {
    let text = std::fs::read_to_string(run.join(format!("{}.pid", daemon.name()))).ok()?;
    text.trim().parse().ok()
}

/// Whether a process runs, and does not only wait to be reaped.
fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

impl Drop for OvsContainer {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Ok(pid) = i32::try_from(child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = child.wait();
    }
}
