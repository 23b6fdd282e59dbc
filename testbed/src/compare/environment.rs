//! Where a comparison was made: whoever reads the numbers later needs to know.

use super::plan::Installed;
use crate::program::{installed, realtime};
use crate::wan::Backend;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine and its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Release of the running kernel.
    pub kernel: String,
    /// Machine architecture.
    pub architecture: String,
    /// Processors available to this process.
    pub cpus: usize,
    /// Congestion control of the built-in client and server.
    pub congestion: String,
    /// Congestion control of the other programs: the kernel's default, which a namespace can't change.
    pub default_congestion: String,
    /// Offloads of the links were left on.
    pub offloads: bool,
    /// The built-in client and server run before ordinary threads; the other programs never do.
    pub realtime_endpoints: bool,
    /// What delays the long leg.
    pub wan: String,
    /// Versions of the programs that took part. Not read back: whoever reads knows its own.
    #[serde(skip_deserializing)]
    pub versions: BTreeMap<&'static str, String>,
    /// When the comparison began, RFC 3339, UTC.
    pub date: String,
}

impl Environment {
    /// Describes this machine. What can't be read is `unknown`, since no measurement depends on it.
    pub fn describe(congestion: &str, offloads: bool, programs: &Installed, wan: Backend) -> Self {
        let unknown = || "unknown".to_owned();
        let sysctl = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}"));
        let mut versions = BTreeMap::from([("testbed", env!("CARGO_PKG_VERSION").to_owned())]);
        let found = [
            ("curl", &programs.curl, "-V"),
            ("nginx", &programs.nginx, "-v"),
            ("haproxy", &programs.haproxy, "-v"),
        ];
        for (name, path, option) in found {
            let Some(path) = path else { continue };
            versions.insert(name, installed::version(path, option).unwrap_or_else(unknown));
        }
        Self {
            kernel: sysctl("kernel/osrelease").map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            architecture: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            congestion: congestion.to_owned(),
            default_congestion: sysctl("net/ipv4/tcp_congestion_control")
                .map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            offloads,
            realtime_endpoints: realtime::is_allowed(),
            wan: match wan {
                Backend::Tap => "user-space delay line on TAP devices".to_owned(),
                Backend::Packet => "user-space delay line on packet sockets".to_owned(),
                Backend::Cable => "none: a veth pair".to_owned(),
            },
            versions,
            date: today(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a report says when it was made")]
fn today() -> String {
    rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Writes seconds since 1970 as a date, for example `2026-01-31T12:00:00Z`.
fn rfc3339(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Years are counted from March, so that the leap day is a year's last; 400 years make an era
    // of 146,097 days. The 719,468 days are those from 0000-03-01 to 1970-01-01.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), date);
        }
    }
}
