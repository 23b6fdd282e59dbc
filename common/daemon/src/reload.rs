//! Reading the configuration again while the daemon serves.

use crate::cli::Command;
use crate::config::{Configured, Layers, Unusable};
use crate::failure::Failure;
use crate::program::{Nic, read};
use crate::setup::Setup;
use crate::workers::Workers;

/// Options whose new values all daemons take over. Of the key file it is the content that counts.
const RELOADED: [&str; 1] = ["key-file"];

/// What the running configuration was read from, and what it was.
pub(crate) struct Reload {
    layers: Layers,
    running: Configured,
}

impl Reload {
    pub(crate) fn new(layers: Layers, running: Configured) -> Self {
        Self { layers, running }
    }

    /// Reads everything again. What may change while connections are under way does, at once; what may not is
    /// named in the log. If anything is wrong all stays as it is.
    pub(crate) fn again<N: Nic>(&mut self, nic: &mut N, workers: &Workers) {
        if let Err(error) = self.try_again(nic, workers) {
            tracing::error!(error, "the old configuration and keys stay in use");
        }
    }

    fn try_again<N: Nic>(&mut self, nic: &mut N, workers: &Workers) -> Result<(), String> {
        let (cli, configured) = read::<N>(&self.layers).map_err(|error| match error {
            Unusable::Arguments(error) => error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
            Unusable::File(error) => Failure::from(error).line(),
        })?;
        let Command::Run(settings) = cli.command else { return Ok(()) };
        let keys = Setup::keys(&settings.common).map_err(|failure| failure.line())?;
        workers.rekey(&keys);
        nic.reload(settings.own);
        let is_reloaded = |name: &&str| RELOADED.contains(name) || N::RELOADED.contains(name);
        let (changed, waiting): (Vec<&str>, Vec<&str>) =
            configured.changes_since(&self.running).partition(is_reloaded);
        let ids: Vec<String> = keys.ids().map(|id| id.to_string()).collect();
        tracing::info!(keys = ids.join(","), changed = changed.join(","), "the configuration was read again");
        if !waiting.is_empty() {
            tracing::warn!(options = waiting.join(","), "these have changed and need a restart");
        }
        // What waits for a restart is named until then.
        self.running.take_over(&configured, |name| is_reloaded(&name));
        Ok(())
    }
}
