//! Files of PacketCaptures are sent to a real OpenSSH server, and to no other.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use antrea_tests::lab::{Lab, eventually, run};
use serde_json::{Value, json};

const CAPTURES: &str = "apis/crd.antrea.io/v1alpha1/packetcaptures";
const SECRET: &str = "antrea-packetcapture-fileserver-auth";
const LIMIT: Duration = Duration::from_secs(30);
const PORT: u16 = 2222;

/// An OpenSSH server outside of the cluster, with one user whose password is `right`; its folder has `upload`, where he may
/// write, `shut`, where he may not, and `full`, where there is no room.
struct Server {
    process: Child,
    folder: PathBuf,
    /// Its public key, in base64.
    key: String,
}

fn bash(script: &str) -> String {
    run("bash", &["-c", script])
}

impl Server {
    async fn start(lab: &Lab) -> Self {
        let folder = lab.nodes[0].dir.join("sshd");
        std::fs::create_dir_all(&folder).unwrap();
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("hack/tools.sh");
        let root = bash(&format!("{} sshd 2>/dev/null", tools.display()));
        let root = root.trim();
        let at = folder.display().to_string();
        bash(&format!("ssh-keygen -q -t ed25519 -N '' -f {at}/host"));
        let hash = bash("openssl passwd -6 right");
        std::fs::write(
            folder.join("passwd"),
            format!(
                "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n\
                 antrea:x:4711:4711::{at}:/bin/sh\n"
            ),
        )
        .unwrap();
        std::fs::write(
            folder.join("shadow"),
            format!("root:*:19000::::::\nsshd:*:19000::::::\nantrea:{}:19000::::::\n", hash.trim()),
        )
        .unwrap();
        let config = format!(
            "Port {PORT}\nHostKey {at}/host\nUsePAM no\nPasswordAuthentication yes\nStrictModes no\nPidFile none\n\
             AllowUsers antrea\nSubsystem sftp internal-sftp\n"
        );
        std::fs::write(folder.join("config"), config).unwrap();
        // The machine's own users stay as they are: the mounts are the server's alone.
        let script = format!(
            "mount --bind {at}/passwd /etc/passwd && mount --bind {at}/shadow /etc/shadow && mount -t tmpfs lab /run &&
             mkdir -p /run/sshd {at}/upload {at}/shut {at}/full && chown 4711 {at}/upload &&
             mount -t tmpfs -o size=4k,uid=4711 lab {at}/full && head -c 4096 /dev/zero >{at}/full/all &&
             LD_LIBRARY_PATH={root}/usr/lib/x86_64-linux-gnu exec {root}/usr/sbin/sshd -D -e -f {at}/config"
        );
        // Somebody else than root has to come by.
        for above in
            folder.ancestors().take_while(|above| above.starts_with("/tmp") && *above != Path::new("/tmp"))
        {
            bash(&format!("chmod o+x {}", above.display()));
        }
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let process = Command::new("ip")
            .args(["netns", "exec", &lab.outside(), "unshare", "-m", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let key = std::fs::read_to_string(folder.join("host.pub")).unwrap();
        let key = key.split(' ').nth(1).unwrap().to_owned();
        let server = Self { process, folder, key };
        let listens = || server.log().contains("Server listening");
        eventually("the server listens", LIMIT, listens).await;
        server
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        println!("{}", self.log());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn put_secret(lab: &Lab, password: &str) {
    // Base64 of the user's name.
    let password = bash(&format!("printf %s {password} | base64")).trim().to_owned();
    let data = json!({"username": "YW50cmVh", "password": password});
    let metadata = json!({"name": SECRET, "namespace": "kube-system"});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data});
    lab.api.put("api/v1/secrets", secret);
}

fn uploaded(lab: &Lab, name: &str) -> Value {
    let capture = lab.api.get(CAPTURES, None, name).unwrap_or_default();
    let conditions = capture["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|one| one["type"] == "PacketCaptureFileUploaded").unwrap_or_default()
}

/// A capture whose file goes there; what became of it: status, reason, message.
async fn sent(lab: &Lab, name: &str, folder: &str, key: &str) -> [String; 3] {
    let now = bash("date -u +%Y-%m-%dT%H:%M:%SZ");
    let url = format!("sftp://{}:{PORT}/{folder}", lab.outside_ip());
    let object = json!({"apiVersion": "crd.antrea.io/v1alpha1", "kind": "PacketCapture",
        "metadata": {"name": name, "creationTimestamp": now.trim()},
        "spec": {"source": {"pod": {"namespace": "default", "name": "web"}}, "timeout": 1,
                 "captureConfig": {"firstN": {"number": 5}},
                 "fileServer": {"url": url, "hostPublicKey": key}}});
    lab.api.put(CAPTURES, object);
    let over = || ["Succeed", "Failed"].iter().any(|reason| uploaded(lab, name)["reason"] == *reason);
    eventually(&format!("the file of {name} is sent, or not"), LIMIT, over).await;
    let found = uploaded(lab, name);
    println!("{name}: {found}");
    ["status", "reason", "message"].map(|key| found[key].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_to_the_server_that_is_meant_and_to_no_other() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[("featureGates", json!({"PacketCapture": true}))]).await;
    let packets = lab.nodes[0].dir.join("packets");
    let folder: &'static str = packets.display().to_string().leak();
    lab.agent_args = vec!["--packet-capture-dir", folder];
    lab.start_agent(0);
    lab.wait_ready(0).await;
    let _web = lab.add_pod(0, "web");
    let server = Server::start(&lab).await;
    let upload = server.folder.join("upload").display().to_string();
    let upload = upload.trim_start_matches('/');
    let failed = |[status, reason, message]: [String; 3], words: &str| {
        assert_eq!((&status[..], &reason[..]), ("False", "Failed"), "{message}");
        assert!(message.contains(words), "{message}");
    };

    failed(sent(&lab, "no-secret", upload, &server.key).await, "there is no Secret");
    put_secret(&lab, "wrong");
    failed(sent(&lab, "wrong-password", upload, &server.key).await, "refuses user and password");
    put_secret(&lab, "right");
    let [status, reason, message] = sent(&lab, "good", upload, &server.key).await;
    assert_eq!((&status[..], &reason[..]), ("True", "Succeed"), "{message}");
    assert_eq!(message, format!("sftp://{}:{PORT}/{upload}/good.pcapng", lab.outside_ip()));
    let there = std::fs::read(server.folder.join("upload/good.pcapng")).unwrap();
    assert_eq!(there, std::fs::read(packets.join("good.pcapng")).unwrap());

    // The password is shown to nobody else.
    let logins = server.log().matches("Accepted password").count();
    bash(&format!("ssh-keygen -q -t ed25519 -N '' -f {}/other", server.folder.display()));
    let other = std::fs::read_to_string(server.folder.join("other.pub")).unwrap();
    let other = other.split(' ').nth(1).unwrap();
    failed(sent(&lab, "wrong-key", upload, other).await, "another key than spec.fileServer.hostPublicKey");
    assert_eq!(server.log().matches("Accepted password").count(), logins, "{}", server.log());

    let shut = server.folder.join("shut").display().to_string();
    failed(sent(&lab, "shut", shut.trim_start_matches('/'), &server.key).await, "Permission denied");
    let none = server.folder.join("none").display().to_string();
    failed(sent(&lab, "none", none.trim_start_matches('/'), &server.key).await, "No such file");
    let full = server.folder.join("full").display().to_string();
    failed(sent(&lab, "full", full.trim_start_matches('/'), &server.key).await, "sftp says");
    let left: Vec<_> = std::fs::read_dir(&packets).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        left.iter().all(|name| name.to_str().unwrap().ends_with(".pcapng")),
        "what is private stays: {left:?}"
    );
}
