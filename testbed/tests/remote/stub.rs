//! The AWS CLI, as far as the runner uses it.
//!
//! A folder is its account: `calls` has a line for every call, `bucket` the objects, `commands` what SSM was sent.
//! Other files make it misbehave: `fail` names a command that fails, `replace` a host that has another id once it could
//! not be reached, `stopped` and `offline` hosts in that state; `no-stack` and `no-credentials` need only exist.
//!
//! SSM's agent is a shell pipeline: like the real one it has done with a command only when everything that the script
//! has started has let go of its output.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Variable that names the stub's folder.
pub(crate) const FOLDER: &str = "RTT0_AWS_STUB";
/// Variable that names the testbed.
pub(crate) const TESTBED: &str = "RTT0_AWS_STUB_TESTBED";
/// Hosts with the addresses of the namespaces that stand for them, in the order of their device indexes.
const HOSTS: [(&str, &[&str]); 4] = [
    ("client", &["10.1.0.10"]),
    ("clientnic", &["10.1.0.1", "10.1.1.1"]),
    ("servernic", &["10.1.2.1", "10.1.1.2"]),
    ("server", &["10.1.2.10"]),
];
/// Runs a script on a host and writes down its output and status, the latter at last.
const AGENT: &str = r#"
cd "$COMMAND"
echo $$ >agent
{ { "$@" 2>&3 3>&-; echo $? >code; } | cat >stdout 3>&-; } 3>&1 | cat >stderr
mv code status
"#;

/// What the stub was asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    /// The arguments.
    pub(crate) arguments: Vec<String>,
    /// The script, if one was sent.
    pub(crate) script: Option<String>,
    /// The host that it was sent to.
    pub(crate) host: Option<String>,
}

impl Call {
    /// Service and operation.
    pub(crate) fn operation(&self) -> String {
        self.arguments[..2].join(" ")
    }

    /// What a script is for.
    pub(crate) fn comment(&self) -> Option<&str> {
        self.option("--comment")?.strip_prefix("rtt0 testbed: ")
    }

    fn option(&self, name: &str) -> Option<&str> {
        let index = self.arguments.iter().position(|argument| argument == name)?;
        self.arguments.get(index + 1).map(String::as_str)
    }
}

/// The stub's folder, if this process is to be the stub.
pub(crate) fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Reads the calls so far.
pub(crate) fn calls(folder: &Path) -> Vec<Call> {
    let text = fs::read_to_string(folder.join("calls")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Answers one call.
pub(crate) fn main(folder: &Path) -> ExitCode {
    let arguments = std::env::args().skip(1).collect();
    let stub = Stub { folder, call: Call { arguments, script: None, host: None } };
    match stub.answer() {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(complaint) => {
            // As the CLI does: an empty line, and status 254 for an error of the service.
            eprintln!("\n{complaint}");
            ExitCode::from(254)
        }
    }
}

type Answer = Result<String, String>;

struct Stub<'a> {
    folder: &'a Path,
    call: Call,
}

impl Stub<'_> {
    fn answer(mut self) -> Answer {
        let operation = self.call.operation();
        if operation == "ssm send-command" {
            return self.send_command();
        }
        // What hosts copy is not the runner's to be judged by.
        if std::env::var_os("COMMAND").is_none() {
            self.note();
        }
        if self.is_told("no-credentials") {
            return Err(
                "Unable to locate credentials. You can configure credentials by running \"aws configure\"."
                    .into(),
            );
        }
        match operation.as_str() {
            "cloudformation describe-stacks" => self.describe_stacks(),
            "ec2 describe-instances" => self.describe_instances(),
            "ssm describe-instance-information" => self.describe_information(),
            "ssm get-command-invocation" => self.invocation(),
            "ssm cancel-command" => self.cancel(),
            "s3 cp" => self.copy(),
            "s3 rm" => self.remove(),
            other => Err(format!("the stub does not know {other}")),
        }
    }

    fn note(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.folder.join("calls")).unwrap();
        writeln!(file, "{}", serde_json::to_string(&self.call).unwrap()).unwrap();
    }

    fn told(&self, what: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(what)).ok()
    }

    fn is_told(&self, what: &str) -> bool {
        self.folder.join(what).exists()
    }

    /// The id of a host's instance, which ends otherwise once it has been replaced.
    fn id(&self, index: usize) -> String {
        let replaced = self.told("replaced").is_some_and(|host| host == HOSTS[index].0);
        format!("i-000000000000000{index}{}", if replaced { 'b' } else { 'a' })
    }

    fn describe_stacks(&self) -> Answer {
        let name = self.call.option("--stack-name").unwrap();
        if self.is_told("no-stack") {
            return Err(format!(
                "An error occurred (ValidationError) when calling the DescribeStacks operation: Stack with id {name} \
                 does not exist"
            ));
        }
        Ok(json!({ "Stacks": [{
            "StackId": format!("arn:aws:cloudformation:eu-north-1:123456789012:stack/{name}/4a5b6c70"),
            "StackName": name,
            "StackStatus": "CREATE_COMPLETE",
            "Outputs": [{ "OutputKey": "Bucket", "OutputValue": "some-bucket", "Description": "…" }],
        }] })
        .to_string())
    }

    fn describe_instances(&self) -> Answer {
        let filter = self.call.option("--filters").unwrap();
        assert_eq!(filter, "Name=tag:aws:cloudformation:stack-name,Values=some-stack");
        let instance = |(index, (host, addresses)): (usize, &(&str, &[&str]))| {
            let interface = |(index, address): (usize, &&str)| {
                json!({
                    "Attachment": { "DeviceIndex": index, "Status": "attached" },
                    "PrivateIpAddress": address,
                    "SourceDestCheck": addresses.len() == 1,
                })
            };
            let state = if self.told("stopped").as_deref() == Some(host) { "stopped" } else { "running" };
            json!({ "Instances": [{
                "InstanceId": self.id(index),
                "State": { "Code": 16, "Name": state },
                "Tags": [{ "Key": "rtt0:role", "Value": host }],
                "NetworkInterfaces": addresses.iter().enumerate().map(interface).collect::<Vec<_>>(),
            }] })
        };
        let reservations: Vec<Value> = HOSTS.iter().enumerate().map(instance).collect();
        Ok(json!({ "Reservations": reservations }).to_string())
    }

    fn describe_information(&self) -> Answer {
        let managed = |(index, (host, _)): (usize, &(&str, &[&str]))| {
            let online = self.told("offline").as_deref() != Some(host);
            json!({ "InstanceId": self.id(index), "PingStatus": if online { "Online" } else { "ConnectionLost" } })
        };
        let list: Vec<Value> = HOSTS.iter().enumerate().map(managed).collect();
        Ok(json!({ "InstanceInformationList": list }).to_string())
    }

    fn send_command(&mut self) -> Answer {
        assert_eq!(self.call.option("--document-name"), Some("AWS-RunShellScript"));
        let file = self.call.option("--parameters").and_then(|p| p.strip_prefix("file://")).unwrap();
        let parameters: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let script = parameters["commands"][0].as_str().unwrap().to_owned();
        assert!(parameters["executionTimeout"][0].as_str().unwrap().parse::<u32>().unwrap() > 0);
        let instance = self.call.option("--instance-ids").unwrap().to_owned();
        let host = (0..HOSTS.len()).find(|index| self.id(*index) == instance).map(|index| HOSTS[index].0);
        self.call.script = Some(script.clone());
        self.call.host = host.map(str::to_owned);
        self.note();
        let invalid = || {
            format!(
                "An error occurred (InvalidInstanceId) when calling the SendCommand operation: Instances \
                 [[{instance}]] not in a valid state for account 123456789012"
            )
        };
        let host = host.ok_or_else(invalid)?;
        if self.told("replace").as_deref() == Some(host) {
            fs::rename(self.folder.join("replace"), self.folder.join("replaced")).unwrap();
            return Err(invalid());
        }
        let purpose = self.call.comment().unwrap();
        let fails = self.told("fail").as_deref() == Some(purpose);
        if purpose.ends_with("-daemon") {
            self.note_key_mode(&script);
        }
        let script = if fails { "echo injected >&2; exit 1".to_owned() } else { script };
        let number = fs::read_dir(self.folder.join("commands")).unwrap().count();
        let id = format!("00000000-0000-4000-8000-{number:012}");
        self.start(&id, host, &script);
        Ok(json!({ "Command": { "CommandId": id, "Status": "Pending" } }).to_string())
    }

    /// Notes with which permissions the key lies where a daemon is about to be started.
    fn note_key_mode(&self, script: &str) {
        let folder = script.lines().find_map(|line| line.strip_prefix("cd '")?.strip_suffix('\'')).unwrap();
        let mode = fs::metadata(Path::new(folder).join("key")).unwrap().permissions().mode() & 0o7777;
        let mut file =
            OpenOptions::new().create(true).append(true).open(self.folder.join("key-modes")).unwrap();
        writeln!(file, "{mode:o}").unwrap();
    }

    /// Has the agent run a script, and does not wait for it.
    fn start(&self, id: &str, host: &str, script: &str) {
        let command = self.folder.join("commands").join(id);
        fs::create_dir(&command).unwrap();
        fs::write(command.join("script"), script).unwrap();
        let bin = self.folder.parent().unwrap().join("bin");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let testbed = std::env::var(TESTBED).unwrap();
        Command::new("setsid")
            .args(["--fork", "sh", "-c", AGENT, "agent", &testbed, "exec", host, "--", "sh"])
            .arg(command.join("script"))
            .env("COMMAND", &command)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
    }

    fn invocation(&self) -> Answer {
        let command = self.folder.join("commands").join(self.call.option("--command-id").unwrap());
        let read = |name: &str| fs::read_to_string(command.join(name)).unwrap_or_default();
        let Ok(status) = fs::read_to_string(command.join("status")) else {
            return Ok(json!({ "Status": "InProgress", "StatusDetails": "InProgress", "ResponseCode": -1,
                "StandardOutputContent": "", "StandardErrorContent": "" })
            .to_string());
        };
        let code: i32 = status.trim().parse().unwrap();
        let word = if code == 0 { "Success" } else { "Failed" };
        Ok(json!({ "Status": word, "StatusDetails": word, "ResponseCode": code,
            "StandardOutputContent": read("stdout"), "StandardErrorContent": read("stderr") })
        .to_string())
    }

    /// Ends a command, but not what has left its session.
    fn cancel(&self) -> Answer {
        let command = self.folder.join("commands").join(self.call.option("--command-id").unwrap());
        if let Ok(session) = fs::read_to_string(command.join("agent")) {
            let group = format!("-{}", session.trim());
            Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status().unwrap();
        }
        Ok(String::new())
    }

    fn remove(&self) -> Answer {
        let object = self.object(&self.call.arguments[2]).unwrap();
        let recursive = self.call.arguments.iter().any(|argument| argument == "--recursive");
        let of_call = |path: &Path| match recursive {
            true => path.to_str().unwrap().starts_with(object.to_str().unwrap()),
            false => path == object,
        };
        let objects = fs::read_dir(self.folder.join("bucket")).unwrap().flatten().map(|entry| entry.path());
        for path in objects.filter(|path| of_call(path)) {
            fs::remove_file(path).map_err(|error| error.to_string())?;
        }
        Ok(String::new())
    }

    /// Where an object lies, if this names one: its slashes are no folders here.
    fn object(&self, url: &str) -> Option<PathBuf> {
        let name = url.strip_prefix("s3://some-bucket/")?;
        assert!(name.starts_with("runs/"), "the VMs may not use {name}");
        Some(self.folder.join("bucket").join(name.replace('/', "+")))
    }

    fn copy(&self) -> Answer {
        let [from, to] = [&self.call.arguments[2], &self.call.arguments[3]];
        let place = |name: &str| self.object(name).unwrap_or_else(|| name.into());
        if to.ends_with("/key") {
            fs::copy(from, self.folder.join("key-seen")).unwrap();
        }
        let read = || format!("the stub can't copy {from} to {to}");
        // Like the CLI it gives files the permissions that the umask leaves, and not those of the source.
        let mut source = fs::File::open(place(from)).map_err(|error| format!("{}: {error}", read()))?;
        let mut target = fs::File::create(place(to)).map_err(|error| format!("{}: {error}", read()))?;
        std::io::copy(&mut source, &mut target).map_err(|error| error.to_string())?;
        Ok(String::new())
    }
}
