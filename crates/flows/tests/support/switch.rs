//! A private Open vSwitch with the dummy datapath: real classifier, real connection tracker, no
//! privileges, no network. Packets go in through `netdev-dummy/receive` and are read back from the capture
//! file of each port.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use openflow::PacketOut;
use tempfile::TempDir;

use super::packet::Packet;

const BRIDGE: &str = "br-int";
/// Where frames of the marker EtherType go, so that a test knows when earlier frames were handled.
const MARKER_PORT: &str = "marker";
const MARKER_FLOW: &str = "table=0,priority=65535,dl_type=0x88b6,actions=output:65000";

pub struct Switch {
    dir: TempDir,
    daemons: Vec<Child>,
    ports: BTreeMap<String, Port>,
}

struct Port {
    ofport: u32,
    capture: PathBuf,
    read: usize,
}

impl Switch {
    /// Starts ovsdb-server and ovs-vswitchd with an empty bridge.
    pub fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("antrea-flows-").tempdir()?;
        let mut sw = Self { dir, daemons: Vec::new(), ports: BTreeMap::new() };
        let db = sw.path("conf.db");
        sw.run("ovsdb-tool", &["create", &db])?;
        let remote = format!("--remote=punix:{}", sw.path("db.sock"));
        let ctl = format!("--unixctl={}", sw.path("ovsdb.ctl"));
        sw.spawn("ovsdb-server", &[&db, &remote, &ctl])?;
        sw.wait_for("db.sock")?;
        sw.vsctl(&["--no-wait", "init"])?;
        let ctl = format!("--unixctl={}", sw.path("vswitchd.ctl"));
        let db = sw.db();
        sw.spawn("ovs-vswitchd", &["--enable-dummy", "--disable-system", &ctl, &db])?;
        sw.wait_for("vswitchd.ctl")?;
        sw.vsctl(&[
            "add-br",
            BRIDGE,
            "--",
            "set",
            "bridge",
            BRIDGE,
            "datapath_type=dummy",
            "fail_mode=secure",
            "protocols=OpenFlow10,OpenFlow15",
        ])?;
        sw.wait_for("br-int.mgmt")?;
        sw.add_port(MARKER_PORT, 65000, &[])?;
        Ok(sw)
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn db(&self) -> String {
        format!("unix:{}", self.path("db.sock"))
    }

    fn spawn(&mut self, program: &str, args: &[&str]) -> Result<()> {
        let log = fs::File::create(self.dir.path().join(format!("{program}.log")))?;
        let child = Command::new(program)
            .args(args)
            .args(["-vconsole:info", "-vsyslog:off", "-vfile:off"])
            .envs(self.env())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        self.daemons.push(child);
        Ok(())
    }

    fn env(&self) -> [(&'static str, &Path); 3] {
        let dir = self.dir.path();
        [("OVS_RUNDIR", dir), ("OVS_LOGDIR", dir), ("OVS_DBDIR", dir)]
    }

    /// Until somebody listens there; the file is made a moment before that.
    fn wait_for(&self, file: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.dir.path().join(file)).is_err() {
            ensure!(Instant::now() < deadline, "{file} did not appear; see {}", self.dir.path().display());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let out = Command::new(program).args(args).envs(self.env()).output().context(program.to_owned())?;
        let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() {
            bail!("{program} {args:?}: {}{stdout}", String::from_utf8_lossy(&out.stderr));
        }
        Ok(stdout)
    }

    fn vsctl(&self, args: &[&str]) -> Result<String> {
        let db = format!("--db={}", self.db());
        let mut all = vec![db.as_str(), "--timeout=20"];
        all.extend(args);
        self.run("ovs-vsctl", &all)
    }

    fn appctl(&self, args: &[&str]) -> Result<String> {
        let target = self.path("vswitchd.ctl");
        let mut all = vec!["-t", target.as_str(), "--timeout=20"];
        all.extend(args);
        self.run("ovs-appctl", &all)
    }

    fn ofctl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["-O", "OpenFlow15", "--timeout=60"];
        all.extend(args);
        self.run("ovs-ofctl", &all)
    }

    fn bridge(&self) -> String {
        format!("unix:{}", self.bridge_socket())
    }

    /// Where the bridge listens for OpenFlow.
    pub fn bridge_socket(&self) -> String {
        self.path("br-int.mgmt")
    }

    /// Adds a port with this OpenFlow number; `options` are settings of the interface.
    pub fn add_port(&mut self, name: &str, ofport: u32, options: &[&str]) -> Result<()> {
        let capture = self.dir.path().join(format!("{name}.pcap"));
        let ofport_request = format!("ofport_request={ofport}");
        let mut args = vec!["add-port", BRIDGE, name, "--", "set", "interface", name, &ofport_request];
        let tx_pcap = format!("options:tx_pcap={}", capture.display());
        if options.is_empty() {
            args.extend(["type=dummy", &tx_pcap]);
        } else {
            args.extend(options);
        }
        self.vsctl(&args)?;
        let got = self.vsctl(&["get", "interface", name, "ofport"])?;
        ensure!(got.trim() == ofport.to_string(), "port {name} has number {got}");
        self.ports.insert(name.to_owned(), Port { ofport, capture, read: 24 });
        Ok(())
    }

    /// Replaces all flows by these, one a line in ovs-ofctl's syntax, in one bundle.
    pub fn install<S: AsRef<str>>(&self, flows: impl IntoIterator<Item = S>) -> Result<()> {
        self.ofctl(&["del-flows", &self.bridge()])?;
        self.add_flows(flows.into_iter().map(|f| f.as_ref().to_owned()).chain([MARKER_FLOW.to_owned()]))
    }

    /// Adds flows in one bundle. Lines may start with `add`, `modify_strict` or `delete_strict`.
    pub fn add_flows<S: AsRef<str>>(&self, flows: impl IntoIterator<Item = S>) -> Result<()> {
        let mut text = String::new();
        for flow in flows {
            text.push_str(flow.as_ref());
            text.push('\n');
        }
        let file = self.dir.path().join("flows.txt");
        fs::write(&file, text)?;
        self.ofctl(&["--bundle", "add-flows", &self.bridge(), &file.display().to_string()])?;
        self.settle()
    }

    /// Sets groups and flows in one bundle, each line in ovs-ofctl's syntax.
    pub fn add_entries<S: AsRef<str>>(&self, groups: &[S], flows: &[S]) -> Result<()> {
        let mut text = String::new();
        for (kind, entry) in
            groups.iter().map(|g| ("group add", g)).chain(flows.iter().map(|f| ("flow add", f)))
        {
            text.push_str(kind);
            text.push(' ');
            text.push_str(entry.as_ref());
            text.push('\n');
        }
        let file = self.dir.path().join("bundle.txt");
        fs::write(&file, text)?;
        self.ofctl(&["bundle", &self.bridge(), &file.display().to_string()])?;
        self.settle()
    }

    /// Replaces groups under their ids.
    pub fn set_groups<S: AsRef<str>>(&self, groups: &[S]) -> Result<()> {
        for group in groups {
            self.ofctl(&["mod-group", &self.bridge(), group.as_ref()])?;
        }
        self.settle()
    }

    /// Removes all groups, and the flows that name them.
    pub fn remove_groups(&self) -> Result<()> {
        self.ofctl(&["del-groups", &self.bridge()])?;
        self.settle()
    }

    /// Makes the datapath forget what it cached, so that the next packet sees the current flows.
    pub fn settle(&self) -> Result<()> {
        self.appctl(&["revalidator/purge"]).map(drop)
    }

    /// The installed flows as OVS prints them, without statistics, without the marker flow.
    pub fn dump(&self) -> Result<Vec<String>> {
        let out = self.ofctl(&["--no-stats", "dump-flows", &self.bridge()])?;
        Ok(out.lines().map(|l| l.trim().to_owned()).filter(|l| !l.contains("dl_type=0x88b6")).collect())
    }

    /// The bridge's raw flow statistics text of one table and match.
    pub fn aggregate(&self, filter: &str) -> Result<String> {
        self.ofctl(&["dump-flows", &self.bridge(), filter])
    }

    /// Lets this time pass for the switch, from now on at its own pace.
    pub fn pass_time(&self, milliseconds: u32) -> Result<()> {
        self.appctl(&["time/stop"])?;
        self.appctl(&["time/warp", &milliseconds.to_string(), "500"]).map(drop)
    }

    /// Forgets all connections.
    pub fn flush_connections(&self) -> Result<()> {
        self.appctl(&["dpctl/flush-conntrack"]).map(drop)
    }

    /// The connections that the tracker knows.
    pub fn connections(&self) -> Result<String> {
        self.appctl(&["dpctl/dump-conntrack"])
    }

    /// Follows a packet through the flows; each of `ct` is the state that a ct() action finds.
    pub fn trace(&self, flow: &str, ct: &[&str]) -> Result<String> {
        let mut args = vec!["ofproto/trace", BRIDGE, flow];
        for state in ct {
            args.extend(["--ct-next", state]);
        }
        self.appctl(&args)
    }

    /// Receives a frame on a port and returns what went out, where. `frame` is in the datapath's flow
    /// syntax, without `in_port`.
    pub fn receive(&mut self, port: &str, frame: &str) -> Result<Vec<(String, Packet)>> {
        let number = self.ports.get(port).context("no such port")?.ofport;
        self.receive_raw(port, &format!("in_port({number}),{frame}"))
    }

    /// The same with the frame's octets in hexadecimal.
    pub fn receive_raw(&mut self, port: &str, frame: &str) -> Result<Vec<(String, Packet)>> {
        self.appctl(&["netdev-dummy/receive", port, frame])?;
        self.sent(port)
    }

    /// Sends a packet of a controller and returns what went out, where.
    pub fn packet_out(&mut self, out: &PacketOut) -> Result<Vec<(String, Packet)>> {
        let hex: String = out.packet.iter().map(|byte| format!("{byte:02x}")).collect();
        let actions: Vec<String> = out.actions.iter().map(ToString::to_string).collect();
        let packet = format!("{},packet={hex},actions={}", out.matches, actions.join(","));
        self.ofctl(&["packet-out", &self.bridge(), &packet])?;
        self.sent("p1")
    }

    /// What went out of all that was received before now; a marker by this port tells when that is done.
    fn sent(&mut self, port: &str) -> Result<Vec<(String, Packet)>> {
        let number = self.ports.get(port).context("no such port")?.ofport;
        self.appctl(&[
            "netdev-dummy/receive",
            port,
            &format!("in_port({number}),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x88b6)"),
        ])?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let marker = self.ports.get_mut(MARKER_PORT).context("no marker port")?;
            if !marker.take()?.is_empty() {
                break;
            }
            ensure!(Instant::now() < deadline, "the marker frame did not arrive");
            thread::sleep(Duration::from_millis(1));
        }
        let mut out = Vec::new();
        for (name, port) in &mut self.ports {
            for frame in port.take()? {
                out.push((name.clone(), Packet::decode(&frame)?));
            }
        }
        Ok(out)
    }
}

impl Port {
    /// The frames sent since the last call.
    fn take(&mut self) -> Result<Vec<Vec<u8>>> {
        let Ok(data) = fs::read(&self.capture) else { return Ok(Vec::new()) };
        let mut frames = Vec::new();
        while let Some(header) = data.get(self.read..self.read + 16) {
            let length = u32::from_ne_bytes(header[8..12].try_into()?) as usize;
            let Some(frame) = data.get(self.read + 16..self.read + 16 + length) else { break };
            frames.push(frame.to_vec());
            self.read += 16 + length;
        }
        Ok(frames)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
