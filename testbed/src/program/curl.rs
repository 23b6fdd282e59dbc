//! Drives curl: an unmodified client that nobody here wrote.

use crate::host::Host;
use anyhow::{Context, bail};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Times of one curl run, counted by curl from its own start. The server is given as a numeric
/// address, so no name look-up is in them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// When the connection was established, as curl saw it.
    pub connect: Duration,
    /// When the first byte of the response was about to be handed over.
    pub first_byte: Duration,
}

/// The fields we use of what `--write-out '%{json}'` prints.
#[derive(Debug, Deserialize)]
struct WriteOut {
    response_code: u16,
    time_connect: f64,
    time_starttransfer: f64,
}

/// Fetches `/` of `server` once with the curl at `program`, inside `host`.
///
/// # Errors
/// If curl can't be started, fails (its message is quoted) or gets anything but 200.
pub fn fetch(host: &Host, program: &Path, server: SocketAddr, timeout: Duration) -> anyhow::Result<Times> {
    let output = host
        .command(program)
        // --disable must come first: it keeps the user's .curlrc out of the measurement.
        .args(["--disable", "--silent", "--show-error", "--http1.1", "--noproxy", "*"])
        .args(["--output", "/dev/null", "--write-out", "%{json}"])
        .args(["--header", "Connection: close"])
        .args(["--max-time", &format!("{:.3}", timeout.as_secs_f64())])
        .arg(format!("http://{server}/"))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't run {}", program.display()))?;
    if !output.status.success() {
        bail!("curl: {}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    parse(&output.stdout)
}

fn parse(json: &[u8]) -> anyhow::Result<Times> {
    let out: WriteOut =
        serde_json::from_slice(json).context("curl's --write-out is not the JSON expected")?;
    if out.response_code != 200 {
        bail!("curl: the server answered {}", out.response_code);
    }
    let time = |seconds: f64| Duration::try_from_secs_f64(seconds).context("curl reported a negative time");
    Ok(Times { connect: time(out.time_connect)?, first_byte: time(out.time_starttransfer)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_times() {
        let json = br#"{"response_code":200,"time_connect":0.000321,"time_starttransfer":0.051,"speed":1}"#;
        let times = parse(json).unwrap();
        assert_eq!(times.connect, Duration::from_micros(321));
        assert_eq!(times.first_byte, Duration::from_millis(51));
    }

    #[test]
    fn an_error_page_is_no_measurement() {
        let json = br#"{"response_code":503,"time_connect":0.1,"time_starttransfer":0.2}"#;
        assert!(parse(json).unwrap_err().to_string().contains("503"));
        assert!(parse(b"").is_err());
    }
}
