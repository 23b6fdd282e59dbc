//! What is said on the control socket: a request in one line of JSON, a reply in one line, and so on.
//!
//! ```text
//! → {"command":"forget","destination":"10.1.2.0/24:443"}
//! ← {"Ok":{"forgotten":3}}
//! → {"command":"profiles","limit":5}
//! ← {"Err":"this daemon keeps no profiles"}
//! ```

use serde::{Deserialize, Serialize};

use super::client;
use crate::stats::Text;

/// The longest request, in bytes with its line's end.
pub(super) const LONGEST: usize = 4096;
/// The most rows of one reply.
pub(crate) const MOST_ROWS: usize = 10_000;

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// [`Stats`](crate::stats::Stats).
    Stats,
    /// [`Flows`].
    Flows {
        /// The most rows, up to [`MOST_ROWS`].
        limit: usize,
        /// Only of such clients (PREFIX).
        #[serde(default)]
        client: Option<String>,
        /// Only to such destinations (PREFIX:PORT).
        #[serde(default)]
        server: Option<String>,
        /// Only in this state.
        #[serde(default)]
        state: Option<String>,
    },
    /// [`Profiles`].
    Profiles {
        /// The most rows, up to [`MOST_ROWS`].
        limit: usize,
    },
    /// [`Done`]: begin no handshake from now on.
    Drain,
    /// [`Done`]: begin them again.
    Resume,
    /// [`Forgotten`]: forget what is known of some destinations.
    Forget {
        /// PREFIX:PORT.
        destination: String,
    },
    /// [`Forgotten`]: forget what is known of all.
    Flush,
    /// [`Reloaded`](crate::reload::Reloaded): read the configuration again.
    Reload,
}

/// Some flows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Flows {
    pub(crate) flows: Vec<FlowRow>,
    /// How many there are in all that were asked for.
    pub(crate) total: usize,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FlowRow {
    /// Address and port.
    pub(crate) client: String,
    /// Address and port.
    pub(crate) server: String,
    pub(crate) state: Text,
    /// Whether the kernel forwards it.
    pub(crate) in_kernel: bool,
    /// For how long it is remembered, in seconds, unless a packet comes.
    pub(crate) expires_in: f64,
    /// The packet thread that serves it.
    pub(crate) worker: usize,
}

/// Some destinations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Profiles {
    pub(crate) profiles: Vec<ProfileRow>,
    /// How many there are in all.
    pub(crate) total: usize,
}

/// A destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProfileRow {
    /// Address and port.
    pub(crate) destination: String,
    /// What is done with a SYN.
    pub(crate) standing: Text,
    pub(crate) paired: bool,
    /// Bytes.
    pub(crate) mss: u16,
    /// Bytes, never scaled.
    pub(crate) window: u16,
    /// Those that it takes up.
    pub(crate) options: Vec<Text>,
    /// Of the path beyond, in seconds.
    pub(crate) rtt: Option<f64>,
    /// Seconds.
    pub(crate) expires_in: f64,
}

/// It was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Whether no handshake is begun now.
    pub(crate) is_draining: bool,
}

/// They were forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forgotten {
    pub(crate) forgotten: usize,
}

/// A reply as it is sent.
pub(super) type Reply<T> = Result<T, String>;

/// Reads a reply to what was asked.
///
/// # Errors
/// What the daemon objects to; or that it speaks another language.
pub(super) fn read<T: for<'a> Deserialize<'a>>(line: &str) -> Result<T, client::AskError> {
    let reply: Reply<T> = serde_json::from_str(line).map_err(client::AskError::Reply)?;
    reply.map_err(client::AskError::Refused)
}
