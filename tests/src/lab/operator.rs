//! The operator, beside the lab's API server.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Lab, binary, end, kubeconfig, tail};
use crate::https::{self, Endpoint};

/// Namespace that it thinks it is in.
const NAMESPACE: &str = "antrea-operator";
const PORT: u16 = 10_352;

/// A running operator; dropped, it ends.
#[derive(Debug)]
pub struct Operator {
    child: Option<Child>,
    log: PathBuf,
}

impl Operator {
    /// Starts it in the outside namespace, and waits until it is ready.
    pub async fn start(lab: &Lab) -> Self {
        let dir = lab.dir.path().join("operator");
        std::fs::create_dir_all(&dir).unwrap();
        let (access, log) = (dir.join("kubeconfig"), dir.join("operator.log"));
        std::fs::write(&access, kubeconfig(lab.outside_ip())).unwrap();
        let file = std::fs::File::create(&log).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &lab.outside()])
            .arg(binary("antrea-operator"))
            .args(["--namespace", NAMESPACE, "run", "--identity", "lab", "--api-port", &PORT.to_string()])
            .arg("--kubeconfig")
            .arg(access)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut operator = Self { child: Some(child), log };
        let begin = Instant::now();
        loop {
            let answer = match Self::endpoint(lab, None) {
                Some(endpoint) => https::get(&endpoint, "/readyz").await,
                None => Err("no CA is published".to_owned()),
            };
            if matches!(answer, Ok((200, _))) {
                return operator;
            }
            let ended = operator.child.as_mut().and_then(|child| child.try_wait().unwrap());
            let log = || tail(&std::fs::read_to_string(&operator.log).unwrap_or_default(), 40);
            assert!(ended.is_none(), "the operator ended: {ended:?}\n{}", log());
            assert!(begin.elapsed() < Duration::from_secs(60), "not ready: {answer:?}\n{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it must run").id()
    }

    /// How to ask it something from its own host as the user of `token`; none until its CA is published.
    pub fn endpoint(lab: &Lab, token: Option<&str>) -> Option<Endpoint> {
        let map = lab.api.get("api/v1/configmaps", Some(NAMESPACE), "antrea-operator-ca")?;
        Some(Endpoint {
            netns: lab.outside(),
            address: (lab.outside_ip(), PORT).into(),
            name: "antrea-operator.antrea-operator.svc",
            ca: map["data"]["ca.crt"].as_str()?.to_owned(),
            token: token.map(str::to_owned),
        })
    }

    /// The value of its sample whose line begins with `prefix`.
    pub async fn metric(lab: &Lab, prefix: &str) -> f64 {
        let endpoint = Self::endpoint(lab, Some("lab-scraper")).expect("the operator's CA");
        let (status, text) = https::get(&endpoint, "/metrics").await.unwrap();
        assert_eq!(status, 200, "{text}");
        super::control_plane::sum(&text, &[prefix])
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        end(&mut self.child, Signal::SIGKILL);
    }
}
