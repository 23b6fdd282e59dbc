//! Servers that know fewer options than Linux, learned as they are.

use super::oracle::{Change, Trial};
use super::server_change::{COOKIES, NO_SACK, NO_TIMESTAMPS, NO_WINDOW_SCALE, SMALL_MSS};
use super::stale_profile::DIALOGUES;
use super::{Case, Lab, Report, Scenario};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sparse-server",
    about: "a server without timestamps, SACK or window scale, with a small MSS or SYN cookies: 0-RTT all the same",
    run,
};

const NOTHING: Change = |lab: &mut Lab| {
    NO_TIMESTAMPS(lab)?;
    NO_SACK(lab)?;
    NO_WINDOW_SCALE(lab)
};

const SERVERS: &[(&str, Change)] = &[
    ("no timestamps", NO_TIMESTAMPS),
    ("no option but MSS", NOTHING),
    ("a small MSS", SMALL_MSS),
    ("SYN cookies", COOKIES),
    ("SYN cookies without timestamps", |lab| {
        NO_TIMESTAMPS(lab)?;
        COOKIES(lab)
    }),
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::EACH, |&case, report| {
        for (what, change) in SERVERS {
            let trial = Trial::new(case, DIALOGUES).prepare(*change);
            let cookies = what.contains("cookies");
            let trial = if cookies { trial.expect("reset-under-cookies") } else { trial };
            trial.verify(report).map_err(|error| error.context(*what))?;
        }
        Ok(())
    })
}
