//! ADD against a real OVSDB and kernel and a scripted bridge: whatever step fails, nothing is left.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use ovs::Vswitch;
use ovs::testing::TestOvs;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::dataplane::fake::{Rig, adds};
use crate::ovs::connections::Connections;
use crate::ovs::settled::Settled;
use crate::pods::interfaces::InterfaceStore;
use crate::pods::network::NodeParts;
use crate::policy::attached_for_tests;

/// A host-local that gives one address, unless the file `refuse` is there.
const HOST_LOCAL: &str = r#"#!/bin/sh
cat > /dev/null
case $CNI_COMMAND in
ADD) [ -e DIR/refuse ] && { echo '{"code": 100, "msg": "no address is free"}'; exit 1; }
     printf '%s\n%s' "$CNI_CONTAINERID" "$CNI_IFNAME" > DIR/antrea/10.244.1.7
     echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.244.1.7/24", "gateway": "10.244.1.1"}]}' ;;
DEL) rm -f DIR/antrea/10.244.1.7 ;;
esac
"#;

fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A named network namespace that goes with the test.
struct Namespace(String);

impl Namespace {
    fn new(what: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("attach-{what}-{}-{number}", std::process::id());
        sh(&format!("ip netns add {name}"));
        Self(name)
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

pub(crate) struct Lab {
    pub(crate) node: Arc<NodeNetwork>,
    pub(crate) rig: Rig,
    pub(crate) ovs: TestOvs,
    folder: tempfile::TempDir,
    pod: Namespace,
    host: Namespace,
    _guard: DropGuard,
}

impl Lab {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("attach-").tempdir_in("/tmp").unwrap();
        let path = folder.path();
        for name in ["ovs", "antrea", "policy"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        let plugin = path.join("host-local");
        std::fs::write(&plugin, HOST_LOCAL.replace("DIR", &path.display().to_string())).unwrap();
        std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();

        let (host, pod) = (Namespace::new("host"), Namespace::new("pod"));
        let cancel = CancellationToken::new();
        let ovs = TestOvs::start(&path.join("ovs"), Some(&host.0)).unwrap();
        ovs.dummy_bridge("br-int", &cancel).await.unwrap();
        let (vswitch, _) = Vswitch::spawn(ovs.db_sock(), cancel.clone());
        vswitch.wait_synced(Duration::from_secs(30)).await.unwrap();
        let rig = Rig::started().await;
        let policy = attached_for_tests(&path.join("policy"), &rig.dataplane).await;
        let netlink = Netns::open(host.path()).unwrap().spawn_netlink().await.unwrap();
        let parts = NodeParts {
            node_name: "n1".to_owned(),
            subnets: vec!["10.244.1.0/24".parse().unwrap()],
            mtu: 1450,
            bridge: "br-int".to_owned(),
            connections: Connections::new(rig.session.clone(), netlink.netns().clone()),
            settled: Settled::new(rig.session.clone(), path.join("ovs"), rig.dataplane.network()),
            netlink,
            vswitch,
            dataplane: rig.dataplane.clone(),
            host_local: super::super::ipam::HostLocal::new(vec![path.into()], Some(path.into())),
            host_proc_path_prefix: String::new(),
            sysctls: netcfg::sysctl::Tree::default(),
            userspace: true,
        };
        let node = Arc::new(NodeNetwork::new(parts, policy, InterfaceStore::default()));
        node.judged().end(&[].into());
        Self { node, rig, ovs, folder, pod, host, _guard: cancel.drop_guard() }
    }

    pub(crate) fn call(&self, pod: &str) -> Call {
        Call {
            container_id: "c1".to_owned(),
            netns: self.pod.path(),
            ifname: "eth0".to_owned(),
            args: pod.to_owned(),
            path: String::new(),
            egress: None,
        }
    }

    /// What ADD leaves behind, wherever.
    pub(crate) fn traces(&self) -> String {
        let links = |namespace: &Namespace| {
            sh(&format!("ip -o -n {} link show | grep -c @if || true", namespace.0)).trim().to_owned()
        };
        let ports = self.ovs.vsctl(&["list-ports", "br-int"]).unwrap();
        let addresses = std::fs::read_dir(self.folder.path().join("antrea")).unwrap().count();
        format!(
            "{} links of the host, {} of the pod, ports {ports:?}, {addresses} addresses, {} flows, {} remembered",
            links(&self.host),
            links(&self.pod),
            self.rig.switch.flows().len(),
            self.node.interfaces().len()
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_in_add_nothing_is_left() {
    let lab = Lab::start().await;
    let clean = lab.traces();
    let call = lab.call("");
    let refuse = lab.folder.path().join("refuse");
    let pid = lab.ovs.vswitchd_pid().unwrap();

    std::fs::write(&refuse, "").unwrap();
    let error = add(&lab.node, &call).await.unwrap_err();
    assert_eq!((error.code, lab.traces()), (ErrorCode::IpamFailure, clean.clone()), "{error}");
    std::fs::remove_file(refuse).unwrap();

    sh(&format!("ip -n {} link add eth0 type veth peer name other", lab.pod.0));
    let error = add(&lab.node, &call).await.unwrap_err();
    assert_eq!((error.code, lab.traces()), (ErrorCode::ConfigInterfaceFailure, clean.clone()), "{error}");
    sh(&format!("ip -n {} link del eth0", lab.pod.0));

    // A name that no pod can have: the controller is not even asked.
    let error = add(&lab.node, &lab.call("K8S_POD_NAMESPACE=ns;K8S_POD_NAME=a&b")).await.unwrap_err();
    assert_eq!((error.code, lab.traces()), (ErrorCode::TryAgainLater, clean.clone()), "{error}");

    // The port is in OVSDB and ovs-vswitchd gives it no number.
    sh(&format!("kill -STOP {pid}"));
    let result = add(&lab.node, &call).await;
    let traces = lab.traces();
    sh(&format!("kill -CONT {pid}"));
    let error = result.unwrap_err();
    assert_eq!((error.code, traces), (ErrorCode::ConfigInterfaceFailure, clean.clone()), "{error}");

    lab.rig.switch.refuse(adds);
    let error = add(&lab.node, &call).await.unwrap_err();
    assert_eq!((error.code, lab.traces()), (ErrorCode::ConfigInterfaceFailure, clean.clone()), "{error}");
    assert!(error.message.contains("refused"), "{error}");
    lab.rig.switch.refuse(|_| false);

    // And when nothing fails, one bundle.
    let bundles = lab.rig.switch.committed().len();
    add(&lab.node, &call).await.unwrap();
    assert_ne!(lab.traces(), clean);
    assert_eq!(lab.rig.switch.committed().len(), bundles + 1, "one bundle");
    del(&lab.node, &call).await.unwrap();
    assert_eq!(lab.traces(), clean);
}

/// A busy host may let through as the former owner's what its egress policy forbids to the new one.
#[tokio::test(flavor = "multi_thread")]
async fn no_pod_is_connected_while_the_host_takes_it_for_its_predecessor() {
    let lab = Lab::start().await;
    let (clean, call) = (lab.traces(), lab.call(""));
    let former: IpAddr = "10.244.1.7".parse().unwrap();
    lab.node.judged().end(&[former].into());
    let error = add(&lab.node, &call).await.unwrap_err();
    assert_eq!((error.code, lab.traces()), (ErrorCode::TryAgainLater, clean.clone()), "{error}");
    assert!(error.message.contains("10.244.1.7"), "{error}");

    let (node, again) = (lab.node.clone(), call.clone());
    let adding = tokio::spawn(async move { add(&node, &again).await });
    // Everything but its flows.
    let port = async || lab.ovs.vsctl(&["list-ports", "br-int"]).unwrap().trim().to_owned();
    while port().await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!adding.is_finished() && lab.rig.switch.flows().is_empty(), "connected");
    lab.node.judged().end(&[].into());
    adding.await.unwrap().unwrap();
    assert_ne!(lab.rig.switch.flows().len(), 0);
}
