//! `testbed remote`: the same steps by both transports.
//!
//! There is no AWS account behind these tests. The `aws` that the runner calls is this very program (see [`stub`]): it
//! answers in the form that the AWS CLI documents, writes down what it was asked, and runs the scripts that SSM would
//! run in the network namespaces of a `testbed up`. So everything happens for real but for AWS itself.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod cloud;
mod stub;

use cloud::{Child, Cloud, NO_PRIVILEGE, running_under, testbed};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;
use stub::Call;

/// The template.
const TEMPLATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/aws/testbed.yaml");
/// The hosts, from client to server.
const HOSTS: [&str; 4] = ["client", "clientnic", "servernic", "server"];
/// How a test says that it can't run here.
const NO_NAMESPACES: &str = "skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN, or unprivileged user namespaces";

type Test = fn() -> Result<Completion, Failed>;

/// Their names say what is promised.
const TESTS: &[(&str, Test)] = &[
    ("local_run_halves_the_first_byte_and_leaves_nothing", local_run),
    ("an_interrupt_leaves_nothing", interrupt),
    ("an_interrupt_on_the_way_leaves_nothing_in_the_cloud", interrupt_on_the_way),
    ("aws_run_against_the_stub_is_the_same_run", aws_run),
    ("after_a_failure_everything_is_stopped", failure),
    ("a_host_with_another_id_is_found_again", replaced_host),
    ("what_is_wrong_in_the_account_is_named", wrong_account),
    ("template_is_clean_under_cfn_lint", lint),
    ("template_and_runner_agree", agreement),
];

fn main() -> ExitCode {
    if let Some(folder) = stub::folder() {
        return stub::main(&folder);
    }
    let mut arguments = Arguments::from_args();
    // They measure, and the machine is one.
    arguments.test_threads = Some(1);
    let trials = TESTS.iter().map(|(name, test)| Trial::ignorable_test(*name, test));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn local_run() -> Result<Completion, Failed> {
    let folder = tempfile::tempdir()?;
    let (out, temporary) = (folder.path().join("out"), folder.path().join("tmp"));
    fs::create_dir(&temporary)?;
    let json = folder.path().join("figures.json");
    let mut command = testbed();
    command.args(["remote", "--transport", "local", "--rtt", "50", "--connections", "12", "--out"]);
    let output = command.arg(&out).arg("--json").arg(&json).env("TMPDIR", &temporary).output()?;
    if output.status.code() == Some(NO_PRIVILEGE) {
        return Ok(Completion::ignored_with(NO_NAMESPACES));
    }
    assert!(output.status.success(), "{output:?}");
    assert_halved(&json, 12);
    assert_collected(&out);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("paired") && table.contains("of the kernel's time"), "{table}");
    assert_eq!(running_under(&temporary), [""; 0]);
    assert_eq!(fs::read_dir(&temporary)?.count(), 0, "files are left");
    println!("{table}");
    Ok(Completion::Completed)
}

fn interrupt() -> Result<Completion, Failed> {
    let folder = tempfile::tempdir()?;
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary)?;
    let mut command = testbed();
    command.args(["remote", "--transport", "local", "--rtt", "50", "--connections", "1000", "--out"]);
    command.arg(folder.path().join("out")).env("TMPDIR", &temporary);
    let mut child = Child::spawn(command)?;
    if !child.await_line("measuring kernel") {
        let (status, said) = child.finish();
        assert_eq!(status.code(), Some(NO_PRIVILEGE), "{said}");
        return Ok(Completion::ignored_with(NO_NAMESPACES));
    }
    // Into the script that measures.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!running_under(&temporary).is_empty());
    child.signal("INT");
    let (status, said) = child.finish();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted by signal 2"), "{said}");
    assert_eq!(running_under(&temporary), [""; 0]);
    assert_eq!(fs::read_dir(&temporary)?.count(), 0, "files are left");
    Ok(Completion::Completed)
}

fn interrupt_on_the_way() -> Result<Completion, Failed> {
    let Some(cloud) = Cloud::raise()? else { return Ok(Completion::ignored_with(NO_NAMESPACES)) };
    let mut child = Child::spawn(cloud.remote(&["--connections", "1000"]))?;
    assert!(child.await_line("installing"));
    // An object is in the bucket, and a host may be copying it.
    std::thread::sleep(Duration::from_millis(500));
    child.signal("TERM");
    let (status, said) = child.finish();
    assert_eq!(status.code(), Some(143), "{said}");
    cloud.assert_nothing_left();
    Ok(Completion::Completed)
}

fn aws_run() -> Result<Completion, Failed> {
    let Some(cloud) = Cloud::raise()? else { return Ok(Completion::ignored_with(NO_NAMESPACES)) };
    let output = cloud.remote(&["--connections", "12"]).output()?;
    assert!(output.status.success(), "{output:?}");
    assert_halved(&cloud.out().join("remote.json"), 12);
    assert_collected(&cloud.out());
    cloud.assert_nothing_left();

    let calls = cloud.calls();
    // The hosts are found before anything is asked of them.
    let operations: Vec<_> = calls.iter().map(Call::operation).collect();
    let discovery =
        ["cloudformation describe-stacks", "ec2 describe-instances", "ssm describe-instance-information"];
    assert_eq!(&operations[..3], discovery);
    assert_eq!(operations.iter().filter(|operation| discovery.contains(&operation.as_str())).count(), 3);
    let steps = steps(&calls);
    let order = [
        "stop what an earlier run left on client",
        "prepare on client",
        "put on clientnic",
        "find devices on servernic",
        "route on clientnic",
        "start http-server on server",
        "connect on client",
        "start capture-kernel-lan on client",
        "end captures on server",
        "start servernic-daemon on servernic",
        "start clientnic-daemon on clientnic",
        "start capture-paired-wan on servernic",
        "stop on client",
        "stop on server",
        "get on clientnic",
        "clear on client",
        "clear on server",
    ];
    let places: Vec<_> = order.iter().map(|step| place(&steps, step)).collect();
    assert!(places.is_sorted(), "{steps:#?}");

    for script in calls.iter().filter_map(|call| call.script.as_deref()) {
        // What is left behind holds nothing of the script's, or SSM would wait for it.
        for line in script.lines().filter(|line| line.trim_end().ends_with('&')) {
            assert!(line.contains("setsid timeout "), "{line}");
            for redirection in ["</dev/null", ">", "2>&1"] {
                assert!(line.contains(redirection), "{line}");
            }
        }
    }
    assert_eq!(calls.iter().filter_map(Call::comment).filter(|c| c.contains("start ")).count(), 3 + 2 * 6);
    assert_key_unseen(&cloud, &calls);
    println!("{}", String::from_utf8_lossy(&output.stdout));
    Ok(Completion::Completed)
}

/// Key material is in files alone, which nobody else can read, and no longer than needed.
fn assert_key_unseen(cloud: &Cloud, calls: &[Call]) {
    let key = fs::read_to_string(cloud.stub().join("key-seen")).unwrap();
    let secrets: HashSet<&str> = key.split_whitespace().filter(|word| word.len() >= 16).collect();
    assert!(!secrets.is_empty(), "the key file has no key");
    for call in calls {
        let texts = call.arguments.iter().chain(&call.script);
        assert!(
            texts.into_iter().all(|text| secrets.iter().all(|secret| !text.contains(secret))),
            "{call:?}"
        );
    }
    let mode = fs::read_to_string(cloud.stub().join("key-modes")).unwrap();
    assert_eq!(mode, "600\n600\n", "of the key on ServerNIC and on ClientNIC when they start");
    let removed = calls.iter().any(|call| call.operation() == "s3 rm" && call.arguments[2].ends_with("/key"));
    assert!(removed);
}

fn failure() -> Result<Completion, Failed> {
    let Some(cloud) = Cloud::raise()? else { return Ok(Completion::ignored_with(NO_NAMESPACES)) };
    cloud.tell("fail", "start clientnic-daemon");
    let output = cloud.remote(&["--connections", "2"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("clientnic: start clientnic-daemon: status 1: injected"), "{said}");
    let steps = steps(&cloud.calls());
    let failed = place(&steps, "start clientnic-daemon on clientnic");
    for host in HOSTS {
        let [stop, clear] = ["stop", "clear"].map(|step| place(&steps, &format!("{step} on {host}")));
        assert!(failed < stop && stop < clear, "{steps:#?}");
    }
    cloud.assert_nothing_left();
    // What ServerNIC had to say is there to be read.
    assert!(fs::read_to_string(cloud.out().join("logs/servernic-daemon.log"))?.contains("ready"));
    assert!(!cloud.out().join("remote.json").exists());
    Ok(Completion::Completed)
}

fn replaced_host() -> Result<Completion, Failed> {
    let Some(cloud) = Cloud::raise()? else { return Ok(Completion::ignored_with(NO_NAMESPACES)) };
    cloud.tell("replace", "server");
    let output = cloud.remote(&["--connections", "2"]).output()?;
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("server can't be reached: "), "{said}");
    let calls = cloud.calls();
    let count = |operation| calls.iter().filter(|call| call.operation() == operation).count();
    assert_eq!(count("ec2 describe-instances"), 2);
    cloud.assert_nothing_left();
    Ok(Completion::Completed)
}

fn wrong_account() -> Result<Completion, Failed> {
    let cloud = Cloud::without_hosts()?;
    let fails = |arguments: &[&str], expected: &str| {
        let output = cloud.remote(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(expected), "{expected}: {said}");
    };
    fails(&["--aws-program", "/absent/aws"], "the AWS CLI is missing: install it");
    cloud.tell("no-stack", "");
    fails(&[], "there is no stack some-stack");
    cloud.untell("no-stack");
    cloud.tell("no-credentials", "");
    fails(&[], "configure them: aws configure");
    cloud.untell("no-credentials");
    cloud.tell("stopped", "server");
    fails(&[], "server (i-0000000000000003a) is stopped: aws ec2 start-instances");
    cloud.untell("stopped");
    cloud.tell("offline", "clientnic");
    fails(&["--patience", "1"], "clientnic (i-0000000000000001a) is not under SSM after 1 s");
    assert!(cloud.calls().iter().all(|call| call.script.is_none()), "nothing was run anywhere");
    Ok(Completion::Completed)
}

fn lint() -> Result<Completion, Failed> {
    match Command::new("cfn-lint").arg(TEMPLATE).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(Completion::ignored_with("skipped: cfn-lint is not installed"))
        }
        Err(error) => Ok(Completion::ignored_with(format!("skipped: cfn-lint can't be run: {error}"))),
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            Ok(Completion::Completed)
        }
    }
}

/// What the runner looks for is what the template makes.
fn agreement() -> Result<Completion, Failed> {
    let template = fs::read_to_string(TEMPLATE)?;
    for host in HOSTS {
        assert!(template.contains(&format!("Key: \"rtt0:role\", Value: {host} }}")), "{host}");
    }
    assert!(template.contains("\nOutputs:\n  Bucket:\n"));
    assert_eq!(template.matches("SourceDestCheck: false").count(), 4);
    assert!(template.contains("/runs/*"), "the VMs may use the objects of runs");
    // CloudFormation takes no aliases, which cfn-lint does not say.
    assert!(!template.contains(": *") && !template.contains(": &"));
    Ok(Completion::Completed)
}

/// Lists what was run on hosts, as "purpose on host".
fn steps(calls: &[Call]) -> Vec<String> {
    let step = |call: &Call| Some(format!("{} on {}", call.comment()?, call.host.as_deref()?));
    calls.iter().filter_map(step).collect()
}

fn place(steps: &[String], step: &str) -> usize {
    let place = steps.iter().position(|candidate| candidate == step);
    place.unwrap_or_else(|| panic!("{step} is missing: {steps:#?}"))
}

/// Over 50 ms a first byte takes two round trips without the NICs and little more than one with them.
fn assert_halved(json: &Path, connections: u64) {
    let report: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let ratio = report["ttfb_ratio"].as_f64().unwrap();
    assert!((0.45..0.6).contains(&ratio), "{report:#}");
    let [kernel, paired] = [&report["results"][0], &report["results"][1]];
    assert_eq!((kernel["mode"].as_str(), paired["mode"].as_str()), (Some("kernel"), Some("paired")));
    for result in [kernel, paired] {
        assert_eq!((result["connections"].as_u64(), result["failed"].as_u64()), (Some(connections), Some(0)));
        assert!((45.0..60.0).contains(&result["measured_rtt_ms"].as_f64().unwrap()), "{report:#}");
    }
    assert!(kernel["connect_ms"]["p50"].as_f64().unwrap() > 45.0, "{report:#}");
    assert!(paired["connect_ms"]["p50"].as_f64().unwrap() < 10.0, "{report:#}");
    assert!(report["answered_early"].as_u64().unwrap() >= connections, "{report:#}");
}

/// Captures of both sides of every hop in both modes, and the logs, are there.
fn assert_collected(out: &Path) {
    for mode in ["kernel", "paired"] {
        for file in
            ["client-lan", "clientnic-lan", "clientnic-wan", "servernic-wan", "servernic-lan", "server-lan"]
        {
            let path = out.join("captures").join(mode).join(file).with_extension("pcapng");
            let size =
                fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len();
            assert!(size > 2000, "{} has {size} bytes", path.display());
        }
    }
    for log in ["clientnic-daemon", "servernic-daemon"] {
        let text = fs::read_to_string(out.join("logs").join(log).with_extension("log")).unwrap();
        assert!(text.contains("ready") && text.contains("counters="), "{text}");
    }
    assert!(out.join("report.html").exists());
}
