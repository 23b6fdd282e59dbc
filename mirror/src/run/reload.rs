//! Reading the configuration again while packets flow.

use std::path::Path;
use std::sync::Arc;

use anyhow::ensure;
use rtt0_daemon::manager;

use super::judgement;
use super::replies::Wanted;
use crate::allowlist::Allowlist;
use crate::config::Config;
use crate::forward::Shared;
use crate::judgement::Judgement;

/// What only a restart changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    pub(super) interface: String,
    /// By which interface packets leave, if any do.
    pub(super) egress: Option<String>,
    pub(super) ports: Vec<u16>,
    pub(super) workers: usize,
    pub(super) realtime_priority: Option<u8>,
    pub(super) awake: bool,
    /// Which replies capture and guard were made for, if any.
    pub(super) replies: Option<Wanted>,
}

impl Fixed {
    /// Returns what is fixed of a configuration, the tunnels' ports and the replies that come to it. Who only observes has
    /// one worker and no egress there.
    pub(super) fn of(config: &Config, ports: Vec<u16>, replies: Option<Wanted>) -> Self {
        Self {
            interface: config.interface.clone(),
            egress: config.egress.clone(),
            ports,
            workers: config.workers,
            realtime_priority: config.realtime_priority,
            awake: config.awake,
            replies,
        }
    }

    /// Takes over tunnels' identifiers, allowlist and rules from the file, or nothing at all.
    pub(super) fn reload(&self, path: &Path, shared: &Shared) {
        manager::reloading();
        match self.read(path, &shared.load()) {
            Ok(now) => {
                let allowed = now.allowlist.as_ref().map_or(0, Allowlist::prefixes);
                shared.store(Arc::new(now));
                tracing::info!(file = %path.display(), allowed, "the configuration was read again");
                manager::status("the configuration was read again");
            }
            Err(error) => {
                let line = format!("not reloaded, the former configuration stays in force: {error:#}");
                tracing::error!(file = %path.display(), "{line}");
                // A status is one line.
                manager::status(&line.replace('\n', " "));
            }
        }
        manager::ready();
    }

    fn read(&self, path: &Path, before: &Judgement) -> anyhow::Result<Judgement> {
        let mut config = Config::load(path)?;
        if self.egress.is_some() {
            config.forwarding()?;
        } else {
            // Who observes has one worker and sends nothing, whatever the file says.
            (config.workers, config.egress) = (self.workers, None);
        }
        let now = judgement(&config, Some(before))?;
        let replies = Wanted::of(&config);
        let told = |replies: &Option<Wanted>| replies.as_ref().map_or("none".to_owned(), Wanted::to_string);
        ensure!(
            replies == self.replies,
            "it takes a restart to change which replies are captured: {} instead of {}",
            told(&replies),
            told(&self.replies)
        );
        let fixed = Self::of(&config, now.tunnels.ports().collect(), replies);
        ensure!(
            fixed == *self,
            "it takes a restart to change interface, egress, workers, realtime_priority, awake or the tunnels' ports: {fixed:?} instead of {self:?}"
        );
        Ok(now)
    }
}
