//! Measures `mirror run` against the kernel's own forwarding and against a plain loop that takes the tunnel off, between
//! namespaces of its own. Build the program first:
//!
//! ```text
//! cargo build --release -p mirror && cargo run --release -p mirror --example mirror_rate -- help
//! ```
//!
//! All take turns, so that what else the machine does falls on each; the medians are what counts. The sender has processor
//! 0 for itself. Processor 1 has all the rest: the kernel's receive path (by RPS, as if the interface's interrupts were
//! there), whoever forwards, and the kernel's sending. Whoever measures on a machine of two processors shares them with
//! everything else that runs there.
#![allow(clippy::unwrap_used, reason = "a measurement that fails has nothing to say")]

mod course;
mod load;
mod naive;
#[path = "../../tests/rig/mod.rs"]
mod rig;
mod soak;
mod subject;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use course::Course;
use rtt0_netio::awake::Awake;
use subject::Subject;
use table::Table;

const HELP: &str = "mirror_rate [WORD…]: rounds=5 | trial=0.25 (seconds; 0: latency only) | bytes=100 (inner UDP payload) | --json |
  prompt (no processor sleeps, whoever forwards, and the mirror's threads are real-time ones) |
  kernel | naive | packet | xdp | pnet (these only) | program=PATH |
  soak seconds=60 rate=20000: a reload each second, and every packet counted";

/// What has the mirror be as prompt as it can.
const PROMPT: &str = "realtime_priority = 10\nawake = true";

/// What is asked for.
struct Plan {
    rounds: usize,
    trial: Duration,
    bytes: usize,
    json: bool,
    only: Vec<String>,
    program: PathBuf,
    prompt: bool,
    soak: bool,
    seconds: u64,
    rate: f64,
}

impl Plan {
    fn of_arguments() -> Option<Self> {
        // target/release/examples/mirror_rate lies below the program.
        let here = std::env::current_exe().unwrap();
        let program = here.ancestors().nth(2).unwrap().join("mirror");
        let mut plan = Self {
            rounds: 5,
            trial: Duration::from_millis(250),
            bytes: 100,
            json: false,
            only: Vec::new(),
            program,
            prompt: false,
            soak: false,
            seconds: 60,
            rate: 20_000.0,
        };
        for word in std::env::args().skip(1) {
            match word.split_once('=') {
                Some(("rounds", value)) => plan.rounds = value.parse().ok()?,
                Some(("trial", value)) => plan.trial = Duration::from_secs_f64(value.parse().ok()?),
                Some(("bytes", value)) => plan.bytes = value.parse().ok()?,
                Some(("seconds", value)) => plan.seconds = value.parse().ok()?,
                Some(("rate", value)) => plan.rate = value.parse().ok()?,
                Some(("program", value)) => plan.program = value.into(),
                None if word == "--json" => plan.json = true,
                None if word == "prompt" => plan.prompt = true,
                None if word == "soak" => plan.soak = true,
                None if ["kernel", "naive", "packet", "xdp", "pnet"].contains(&word.as_str()) => {
                    plan.only.push(word);
                }
                _ => return None,
            }
        }
        // One message carries 32 packets, and no more than 64 KiB; the path takes inner packets of 1500 bytes.
        (plan.rounds > 0 && (16..=1_400).contains(&plan.bytes)).then_some(plan)
    }

    fn wants(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| *word == subject.word())
    }
}

fn main() {
    let Some(plan) = Plan::of_arguments() else { return println!("{HELP}") };
    let Some(course) = Course::new(plan.bytes, if plan.prompt { PROMPT } else { "" }) else { return };
    if plan.soak {
        return soak::run(&course, &plan);
    }
    let _awake = plan.prompt.then(|| Awake::keep().unwrap());
    let mut subjects = vec![Subject::Kernel, Subject::Naive];
    if plan.program.exists() {
        subjects.extend([Subject::Mirror("packet"), Subject::Mirror("xdp"), Subject::Mirror("pnet")]);
    } else {
        eprintln!("no {}: cargo build --release -p mirror", plan.program.display());
    }
    subjects.retain(|subject| plan.wants(*subject));
    let mut table = Table::new(&course, &plan);
    for round in 1..=plan.rounds {
        for subject in &subjects {
            match subject.start(&course, &plan.program) {
                Ok(running) => {
                    let result = course.run(&running, plan.trial);
                    eprintln!("round {round}, {}: {result:?}", subject.label());
                    table.add(*subject, result);
                    running.end();
                }
                Err(why) if round == 1 => table.lacks(*subject, &why),
                Err(_) => {}
            }
        }
    }
    table.print(plan.json);
}
