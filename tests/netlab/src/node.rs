//! A node on a host.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use peerloom_test_control::Control;
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::process::Process;
use crate::site::Host;
use crate::{eventually, within};

/// A node, running or not. Where it runs is decided anew by each start.
pub struct Node {
    name: String,
    folder: PathBuf,
    peerloom: PathBuf,
    running: Option<(Process, Control)>,
    /// When it was last started.
    started: Instant,
}

impl Node {
    /// Writes the file of a node that speaks WebRTC and knows the lab's registry. `more` is what else the transport's
    /// table has.
    pub fn new(lab: &Lab, name: &str, more: &str) -> Self {
        let folder = lab.folder().join(name);
        fs::create_dir(&folder).expect("a folder");
        let file = format!(
            "network = \"lab\"\nname = \"{name}\"\n\n[[transport]]\nkind = \"webrtc\"\n{more}\n\
             [[discovery]]\nkind = \"invite\"\n\n[[discovery]]\nkind = \"registry\"\nurl = \"{}\"\n\n\
             [storage]\nkind = \"redb\"\n\n[[crypto]]\nkind = \"mls-classical\"\n",
            lab.registry_url()
        );
        let path = folder.join("peerloom.toml");
        fs::write(&path, file).expect("a file");
        // A password may stand in it.
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("permissions");
        let peerloom = lab.peerloom().to_owned();
        Self { name: name.into(), folder, peerloom, running: None, started: Instant::now() }
    }

    fn command(&self, host: &Host, arguments: &[&str]) -> Command {
        let mut command = host.namespace().command(&self.peerloom);
        command.arg("-C").arg(&self.folder).args(arguments).env_remove("RUST_LOG").env("NO_COLOR", "1");
        command
    }

    /// Runs the command on the node's folder, on a host, and gives what it prints; panics with its complaint.
    pub fn run(&self, host: &Host, arguments: &[&str]) -> String {
        let output = self.command(host, arguments).output().expect("the command runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {arguments:?}: {complaint}", self.name);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What `peerloom doctor` finds on a host: what it looked at, how that stands, and what it saw.
    pub fn doctor(&self, host: &Host) -> Vec<(String, String, String)> {
        // It complains by its exit code where something doesn't work; that's for the test to judge.
        let output = self.command(host, &["doctor", "--json"]).output().expect("the command runs");
        let diagnostics: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
            panic!("{e}: {} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        });
        let text = |diagnostic: &Value, key: &str| diagnostic[key].as_str().unwrap_or_default().to_owned();
        diagnostics.iter().map(|f| (text(f, "check"), text(f, "status"), text(f, "detail"))).collect()
    }

    /// Starts it on a host.
    pub fn start(&mut self, host: &Host) {
        self.started = Instant::now();
        let log = self.folder.join("log");
        let mut process = Process::start(&self.name, self.command(host, &["-vv", "run", "--quiet"]), &log);
        let mut control = None;
        eventually(&format!("{} to answer", self.name), || {
            process.assert_running();
            control = Control::connect(&self.folder);
            control.is_some()
        });
        self.running = control.map(|control| (process, control));
    }

    /// Ends it as its user does.
    pub fn stop(&mut self) {
        self.running.take().into_iter().for_each(|(process, _)| process.stop());
    }

    /// How long ago it was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Shows the end of its log.
    pub fn show_log(&self) {
        self.running.iter().for_each(|(process, _)| process.show());
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Asks the running node.
    pub fn ask(&mut self, request: Value) -> Value {
        let (process, control) = self.running.as_mut().expect("a running node");
        process.assert_running();
        let mut answer = control.request(request.clone()).expect("the node answers");
        assert!(answer.get("error").is_none(), "{request}: {answer}");
        answer["ok"].take()
    }

    /// An invitation of the running node.
    pub fn invite(&mut self, uses: u32) -> String {
        let answer = self.ask(json!({ "op": "invite", "lifetime_ms": 600_000, "uses": uses }));
        answer["link"].as_str().expect("a link").to_owned()
    }

    /// Adds the contact of an invitation, on the running node.
    pub fn add(&mut self, link: &str) {
        self.ask(json!({ "op": "add", "link": link }));
    }

    /// How the contact's device stands.
    pub fn peer(&mut self, contact: &str) -> Value {
        let peers = self.ask(json!({ "op": "peers" }));
        peers.as_array().into_iter().flatten().find(|peer| peer["contact"] == contact).cloned().unwrap_or_default()
    }

    /// The path to a contact, once there is a link.
    pub fn path(&mut self, contact: &str) -> Option<String> {
        let peer = self.peer(contact);
        (peer["state"] == "connected").then(|| peer["path"].as_str().expect("a path").to_owned())
    }

    /// Waits for a link to a contact, and gives its path.
    pub fn connected(&mut self, contact: &str, patience: Duration) -> String {
        let mut path = None;
        let what = format!("a link from {} to {contact}", self.name);
        within(patience, &what, || {
            path = self.path(contact);
            path.is_some()
        });
        path.expect("a path")
    }

    /// Sends, and gives the message's id once it is durably accepted.
    pub fn send(&mut self, contact: &str, text: &str) -> String {
        let sent = self.ask(json!({ "op": "send", "contact": contact, "text": text }));
        sent["id"].as_str().expect("an id").to_owned()
    }

    /// Everything received, and how often.
    pub fn received(&mut self) -> BTreeMap<String, usize> {
        let mut texts = BTreeMap::new();
        let mut after = "0.0".to_owned();
        loop {
            let page = self.ask(json!({ "op": "inbox", "after": after, "limit": 1000 }));
            let page = page.as_array().expect("messages");
            let Some(last) = page.last() else { return texts };
            after = last["cursor"].as_str().expect("a cursor").to_owned();
            for message in page {
                *texts.entry(message["text"].as_str().expect("a text").to_owned()).or_default() += 1;
            }
        }
    }

    /// Waits for a text, and says how long that took.
    pub fn expect(&mut self, text: &str, patience: Duration) -> Duration {
        let what = format!("\"{text}\" to reach {}", self.name);
        within(patience, &what, || self.received().contains_key(text))
    }
}
