//! A script on an instance, by SSM: sent, then asked for until it has ended.

use super::super::interrupt::Interrupt;
use super::super::site::Role;
use super::super::transport::{Output, Unreachable};
use super::cli::{CALL, Cli, named};
use super::shapes::{Invocation, Sent};
use anyhow::{Context, bail};
use serde_json::json;
use std::io::Write;
use std::time::{Duration, Instant};

/// How long SSM tries to hand a command to an agent, seconds; the least that it takes.
const DELIVERY: u64 = 30;
/// What a command may take longer than its script and its delivery.
const SLACK: Duration = Duration::from_secs(30);
/// Between two questions at first; they come less and less often.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Between two questions at last.
const LAST_PAUSE: Duration = Duration::from_secs(3);

/// Runs a script; see [`super::super::Transport::run`].
pub(super) fn run(
    cli: &Cli<'_>,
    interrupt: &Interrupt,
    (role, instance): (Role, &str),
    purpose: &str,
    script: &str,
    bound: Duration,
) -> anyhow::Result<Output> {
    // A file and not an argument, which would be read as shorthand, and has a bound.
    let mut parameters = tempfile::NamedTempFile::new().context("can't make a file for the command")?;
    let seconds = bound.as_secs().max(1).to_string();
    serde_json::to_writer(&mut parameters, &json!({ "commands": [script], "executionTimeout": [seconds] }))?;
    parameters.flush()?;
    let file = format!("file://{}", parameters.path().display());
    let (delivery, comment) = (DELIVERY.to_string(), format!("rtt0 testbed: {purpose}"));
    let send = [
        "ssm",
        "send-command",
        "--document-name",
        "AWS-RunShellScript",
        "--instance-ids",
        instance,
        "--timeout-seconds",
        &delivery,
        "--comment",
        comment.get(..100).unwrap_or(&comment),
        "--parameters",
        &file,
    ];
    let sent = cli.call(&send, CALL)?;
    if sent.status != 0 {
        if sent.stderr.contains("InvalidInstanceId") {
            return Err(Unreachable { role, reason: sent.stderr.trim().to_owned() }.into());
        }
        bail!("{}: {}", named(&send), sent.stderr.trim());
    }
    let sent: Sent = serde_json::from_str(&sent.stdout).context("aws ssm send-command: unexpected answer")?;
    let id = sent.command.command_id;
    let outcome = wait(cli, interrupt, (role, instance), &id, bound);
    if outcome.as_ref().is_err_and(|error| !error.is::<Unreachable>()) {
        // What nobody waits for is not to go on; if it has ended, that is no harm.
        let _ = cli.call_regardless(&["ssm", "cancel-command", "--command-id", &id]);
    }
    outcome
}

fn wait(
    cli: &Cli<'_>,
    interrupt: &Interrupt,
    (role, instance): (Role, &str),
    id: &str,
    bound: Duration,
) -> anyhow::Result<Output> {
    let deadline = Instant::now() + bound + Duration::from_secs(DELIVERY) + SLACK;
    let ask = ["ssm", "get-command-invocation", "--command-id", id, "--instance-id", instance];
    let mut pause = FIRST_PAUSE;
    loop {
        interrupt.sleep(pause)?;
        pause = (pause * 3 / 2).min(LAST_PAUSE);
        let answer = cli.call(&ask, CALL)?;
        if answer.status == 0 {
            let invocation = serde_json::from_str(&answer.stdout)
                .context("aws ssm get-command-invocation: unexpected answer")?;
            if let Some(output) = judge(role, invocation, bound)? {
                return Ok(output);
            }
        } else if !answer.stderr.contains("InvocationDoesNotExist") {
            // That comes before SSM has made the invocation of a command that it has taken.
            bail!("{}: {}", named(&ask), answer.stderr.trim());
        }
        if Instant::now() >= deadline {
            bail!("command {id} on {role} ({instance}) has not ended in time");
        }
    }
}

/// Reads what has become of a command: none if it is still under way.
fn judge(role: Role, invocation: Invocation, bound: Duration) -> anyhow::Result<Option<Output>> {
    let Invocation { status, status_details, response_code, .. } = &invocation;
    match (status.as_str(), status_details.as_str()) {
        ("Pending" | "InProgress" | "Delayed" | "Cancelling", _) => Ok(None),
        (_, "DeliveryTimedOut" | "Delivery Timed Out" | "Undeliverable" | "Terminated") => {
            Err(Unreachable { role, reason: format!("SSM says {status_details}") }.into())
        }
        // A script that fails has a status; the agent's own failures have -1.
        ("Success", _) | ("Failed", _) if *response_code >= 0 => Ok(Some(Output {
            status: *response_code,
            stdout: invocation.standard_output_content,
            stderr: invocation.standard_error_content,
        })),
        ("TimedOut", _) => bail!(
            "the script on {role}, or something it has started that holds its output, did not end within {bound:.0?}"
        ),
        _ => bail!("SSM says {status} ({status_details}): {}", invocation.standard_error_content.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: &str, details: &str, code: i32) -> anyhow::Result<Option<Output>> {
        let shape = json!({ "Status": status, "StatusDetails": details, "ResponseCode": code,
            "StandardOutputContent": "out", "StandardErrorContent": "err" });
        judge(Role::Client, serde_json::from_value(shape).unwrap(), Duration::from_secs(5))
    }

    #[test]
    fn every_status_has_its_meaning() {
        for pending in ["Pending", "InProgress", "Delayed", "Cancelling"] {
            assert_eq!(judged(pending, pending, -1).unwrap(), None);
        }
        assert_eq!(judged("Success", "Success", 0).unwrap().unwrap().stdout, "out");
        assert_eq!(judged("Failed", "Failed", 78).unwrap().unwrap().status, 78);
        assert!(judged("Failed", "Undeliverable", -1).unwrap_err().is::<Unreachable>());
        assert!(judged("TimedOut", "DeliveryTimedOut", -1).unwrap_err().is::<Unreachable>());
        for end in [("TimedOut", "ExecutionTimedOut"), ("Cancelled", "Cancelled"), ("Failed", "Failed")] {
            assert!(!judged(end.0, end.1, -1).unwrap_err().is::<Unreachable>(), "{end:?}");
        }
    }
}
