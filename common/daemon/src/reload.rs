//! Reading the configuration again while the daemon serves.

use serde::{Deserialize, Serialize};

use crate::cli::Command;
use crate::config::{Configured, Layers, Unusable};
use crate::failure::Failure;
use crate::offload::Offload;
use crate::program::{Nic, read};
use crate::setup::Setup;
use crate::stats::{Reloads, unix_seconds};
use crate::workers::Workers;

/// Options whose new values all daemons take over. Of the key file it is the content that counts.
const RELOADED: [&str; 1] = ["key-file"];

/// What the running configuration was read from, what it was, and how that went.
pub(crate) struct Reload {
    layers: Layers,
    running: Configured,
    outcome: Reloads,
}

/// What a reload has taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// Ids of the keys in use.
    pub(crate) keys: Vec<String>,
    /// Options that have changed.
    pub(crate) changed: Vec<String>,
    /// Options whose new values need a restart.
    pub(crate) waiting: Vec<String>,
}

impl Reloaded {
    /// Says it for people.
    pub(crate) fn tell(&self) -> String {
        let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!(
            "the configuration was read again
keys in use: {}
changed: {}
changed, but need a restart: {}\n",
            list(&self.keys),
            list(&self.changed),
            list(&self.waiting),
        )
    }
}

impl Reload {
    pub(crate) fn new(layers: Layers, running: Configured) -> Self {
        Self { layers, running, outcome: Reloads { has_succeeded: true, read: unix_seconds() } }
    }

    /// Returns how the last one went.
    pub(crate) fn outcome(&self) -> Reloads {
        self.outcome
    }

    /// Reads everything again. What may change while connections are under way does, at once; what may not is
    /// named in the log. If anything is wrong all stays as it is.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn again<N: Nic>(
        &mut self,
        nic: &mut N,
        workers: &Workers,
        offload: &mut Offload,
    ) -> Result<Reloaded, String> {
        let outcome = self.try_again(nic, workers, offload);
        self.outcome.has_succeeded = outcome.is_ok();
        match &outcome {
            Ok(reloaded) => {
                self.outcome.read = unix_seconds();
                let (keys, changed) = (reloaded.keys.join(","), reloaded.changed.join(","));
                tracing::info!(keys, changed, "the configuration was read again");
                if !reloaded.waiting.is_empty() {
                    let options = reloaded.waiting.join(",");
                    tracing::warn!(options, "these have changed and need a restart");
                }
            }
            Err(error) => tracing::error!(error, "the old configuration and keys stay in use"),
        }
        outcome
    }

    fn try_again<N: Nic>(
        &mut self,
        nic: &mut N,
        workers: &Workers,
        offload: &mut Offload,
    ) -> Result<Reloaded, String> {
        let (cli, configured) = read::<N>(&self.layers).map_err(|error| match error {
            Unusable::Arguments(error) => error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
            Unusable::File(error) => Failure::from(error).line(),
        })?;
        let Command::Run(settings) = cli.command else { return Err("this is not run".to_owned()) };
        let keys = Setup::keys(&settings.common).map_err(|failure| failure.line())?;
        // Before the workers hear of it: they reconsider then what the kernel may answer.
        nic.reload(settings.own);
        workers.rekey(&keys);
        offload.rekey(&keys);
        nic.rekey(&keys);
        let is_reloaded = |name: &&str| RELOADED.contains(name) || N::RELOADED.contains(name);
        let (changed, waiting): (Vec<&str>, Vec<&str>) =
            configured.changes_since(&self.running).partition(is_reloaded);
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let reloaded = Reloaded {
            keys: keys.ids().map(|id| id.to_string()).collect(),
            changed: owned(changed),
            waiting: owned(waiting),
        };
        // What waits for a restart is named until then.
        self.running.take_over(&configured, |name| is_reloaded(&name));
        Ok(reloaded)
    }
}
