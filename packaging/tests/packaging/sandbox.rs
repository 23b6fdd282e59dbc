//! The units' sandbox, by trying what it forbids.

use std::collections::HashMap;

use libtest_mimic::{Completion, Failed};

use crate::machine::{self, Files, Machine};
use crate::probe::{ATTEMPTS, OPEN, REFUSED, SET_USER_ID};
use crate::{Outcome, PROGRAMS, skipped};

/// Has the unit run the probe once instead of its program. Nothing that confines it is changed.
const AS_PROBE: &str = "[Service]
Type=oneshot
Restart=no
ExecStart=
ExecStart=/usr/bin/NAME
Environment=RTT0_TEST_AS_PROBE=1
StandardOutput=file:/run/NAME.probe
";

/// The same program as root, as a service could be without any of that.
const UNCONFINED: &str = "[Service]
Type=oneshot
ExecStart=/usr/bin/clientnic
Environment=RTT0_TEST_AS_PROBE=1
StandardOutput=file:/run/unconfined.probe
";

pub(crate) fn refuses() -> Outcome {
    if let Some(lack) = machine::lacks() {
        return skipped(lack);
    }
    let mut files = Files::new()?.installed()?.write("/etc/systemd/system/unconfined.service", UNCONFINED)?;
    for name in PROGRAMS {
        let path = format!("/etc/systemd/system/{name}.service.d/probe.conf");
        files = files.write(&path, &AS_PROBE.replace("NAME", name))?;
    }
    let machine = files.start()?;
    // Modes are not to be what refuses.
    machine.sh(&format!(
        "for folder in /etc /usr /var /run /dev/shm /home /root /tmp; do
             chmod o+x $folder; echo > $folder/{OPEN}; chmod 666 $folder/{OPEN}
         done
         mkdir /sys/fs/bpf/{OPEN}
         cp /usr/bin/id {SET_USER_ID}; chmod 4755 {SET_USER_ID}"
    ))?;
    for name in PROGRAMS {
        for (attempt, outcome) in probe(&machine, name)? {
            assert!(outcome.starts_with(REFUSED), "{name}: {attempt}: {outcome}");
        }
    }
    // What is refused to root without a sandbox, too, says nothing about the sandbox.
    let unconfined = probe(&machine, "unconfined")?;
    let (by_others, by_sandbox): (Vec<_>, Vec<_>) =
        unconfined.into_iter().partition(|(_, outcome)| outcome.starts_with(REFUSED));
    println!("refused by the sandbox, and done or allowed without: {}", by_sandbox.len());
    for (attempt, outcome) in &by_others {
        println!("not shown: {attempt}: {outcome} without the sandbox, too");
    }
    assert!(by_others.len() <= 3, "too little can be shown: {by_others:?}");
    Ok(Completion::Completed)
}

fn probe(machine: &Machine, unit: &str) -> Result<HashMap<String, String>, Failed> {
    machine.start(unit)?;
    let said = machine.sh(&format!("cat /run/{unit}.probe"))?;
    let outcomes: HashMap<String, String> = said
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(attempt, outcome)| (attempt.to_owned(), outcome.to_owned()))
        .collect();
    for (attempt, _) in ATTEMPTS {
        assert!(outcomes.contains_key(attempt), "{unit}: {attempt} was not tried: {said}");
    }
    Ok(outcomes)
}
