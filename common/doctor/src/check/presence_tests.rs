use super::super::testing::{causes, nic};
use super::*;

fn process(pid: u32, state: char, command: &str) -> Process {
    Process {
        pid,
        state,
        arguments: command.split(' ').map(str::to_owned).collect(),
        executable: None,
        is_here: Some(true),
        started: None,
        age: Some(Duration::from_secs(60)),
        threads: Vec::new(),
        file: Err("unknown".to_owned()),
        label: None,
    }
}

fn silent(processes: Vec<Process>) -> Presence {
    Presence {
        processes: Ok(processes),
        are_hidden: false,
        answer: Err("nobody answers".to_owned()),
        socket: Err(io::ErrorKind::NotFound),
    }
}

fn judged(presence: &Presence) -> (Vec<String>, u8) {
    let mut report = Report::default();
    judge(nic(&[]).daemon.as_ref().unwrap(), presence, &mut report);
    (causes(&report), report.status())
}

#[test]
fn one_that_answers_is_well() {
    let answer = Ok(DaemonCounters { is_alive: true, ..DaemonCounters::default() });
    let presence = Presence { answer, socket: Ok(()), ..silent(vec![process(7, 'S', "clientnic run")]) };
    assert_eq!(judged(&presence).1, 0);
    let elsewhere = Presence { processes: Ok(Vec::new()), ..presence };
    assert_eq!(judged(&elsewhere).1, 0, "in another pid namespace");
}

#[test]
fn without_process_and_answer_it_does_not_run() {
    assert_eq!(judged(&silent(Vec::new())).0, ["daemon-not-running"]);
    let hidden = Presence { are_hidden: true, ..silent(Vec::new()) };
    assert_eq!(judged(&hidden), (Vec::new(), 2));
    let denied = Presence { socket: Err(io::ErrorKind::PermissionDenied), ..silent(Vec::new()) };
    assert_eq!(judged(&denied), (Vec::new(), 2));
    let blind = Presence { processes: Err("no /proc".to_owned()), ..silent(Vec::new()) };
    assert_eq!(judged(&blind), (Vec::new(), 2));
}

#[test]
fn one_that_is_stopped_is_named() {
    assert_eq!(judged(&silent(vec![process(7, 'T', "clientnic run")])).0, ["daemon-not-answering process 7"]);
}

#[test]
fn silence_is_a_fault_only_where_an_answer_is_due() {
    let one = |command| silent(vec![process(7, 'S', command)]);
    assert_eq!(judged(&one("clientnic run")).0, ["daemon-not-answering process 7"]);
    assert_eq!(judged(&one("clientnic run --control-socket /nowhere/clientnic.sock")).0.len(), 1);
    assert_eq!(judged(&one("clientnic run --state-dir /nowhere")).0.len(), 1);
    assert_eq!(judged(&one("clientnic run --control-socket=/else/where")), (Vec::new(), 0));
    assert_eq!(judged(&one("clientnic run --no-state")), (Vec::new(), 0));
    let young = Process { age: Some(Duration::ZERO), ..process(7, 'S', "clientnic run") };
    assert_eq!(judged(&silent(vec![young])), (Vec::new(), 0));
    let without = Presence { socket: Err(io::ErrorKind::Unsupported), ..one("clientnic run") };
    assert_eq!(judged(&without), (Vec::new(), 0));
}

#[test]
fn two_on_one_interface_are_one_too_many() {
    let judged = |first, second| {
        let mut report = Report::default();
        judge_several(&[process(7, 'S', first), process(8, 'S', second)], &mut report);
        causes(&report)
    };
    assert_eq!(
        judged("clientnic run --interface lan0,wan0", "clientnic run --interface wan0"),
        ["second-instance wan0"]
    );
    assert!(judged("clientnic run --interface lan0", "clientnic run --interface wan0").is_empty());
    assert!(judged("clientnic run", "clientnic run").is_empty());
}
