//! The only differences from kernel forwarding that a scenario may show. docs/TRUTH.md repeats
//! this table; a test compares the two.

use super::super::conversation::Event;
use super::Observation;
use super::endings::Mark;

/// A difference that the NICs are allowed to make.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// Its name in the report and in the documentation.
    pub id: &'static str,
    /// What kernel forwarding shows.
    pub kernel: &'static str,
    /// What the NICs show instead.
    pub nics: &'static str,
    /// When, and why it can't be otherwise.
    pub why: &'static str,
    holds: fn(&Observation, &Observation) -> bool,
}

/// All of them.
pub const DECLARED: &[Difference] = &[
    Difference {
        id: "refused-after-connect",
        kernel: "connect(): ECONNREFUSED",
        nics: "connect() succeeds; reading or writing fails with ECONNRESET, or EPIPE when writing again",
        why: "the port was closed after its profile was learned: the client has been answered before the server \
              is asked. Once per profile, since the refusal forgets it",
        holds: refused_after_connect,
    },
    Difference {
        id: "reset-after-early-probe",
        kernel: "no RST",
        nics: "an RST from the client behind both FINs; no system call shows it",
        why: "the client's own RTT sample of the early SYN-ACK is near zero, so for its first few flights its tail \
              loss probe (RFC 8985 §7) comes before an answer can. If what it repeats is its FIN, the server's \
              second ACK finds the connection closed",
        holds: reset_after_early_probe,
    },
    Difference {
        id: "reset-of-early-data",
        kernel: "no RST",
        nics: "an RST from the server before anything else; a NIC drops it, and no system call shows it",
        why: "no ServerNIC held the early data back: since the profile was learned it has died, packets avoid it, or a \
              middlebox has come between; or they came in IPv6 fragments. The data then reach the server during its \
              handshake. Once per destination and outage, since the profile is learned anew",
        holds: reset_of_early_data,
    },
];

fn refused_after_connect(kernel: &Observation, nics: &Observation) -> bool {
    let late = [Event::Failed(libc::ECONNRESET), Event::Failed(libc::EPIPE)];
    let (first, rest) = nics.seen.client.split_first().map_or((None, &[][..]), |(f, r)| (Some(f), r));
    kernel.seen.client == [Event::Failed(libc::ECONNREFUSED)]
        && first == Some(&Event::Connected)
        && rest.iter().any(|event| late.contains(event))
        && !rest.iter().any(|event| matches!(event, Event::Received { .. } | Event::EndOfStream))
        && nics.seen.server == kernel.seen.server
        && nics.endings.client.contains(&Mark::ResetReceived)
}

fn reset_after_early_probe(kernel: &Observation, nics: &Observation) -> bool {
    let one_more = |marks: &[Mark], as_ever: &[Mark], mark| {
        marks.split_last() == Some((&mark, as_ever)) && !as_ever.contains(&mark)
    };
    let (ours, theirs) = (&nics.endings, &kernel.endings);
    kernel.seen == nics.seen
        && theirs.client.contains(&Mark::FinSent)
        && theirs.client.contains(&Mark::FinReceived)
        && one_more(&ours.client, &theirs.client, Mark::ResetSent)
        && (ours.server == theirs.server || one_more(&ours.server, &theirs.server, Mark::ResetReceived))
}

fn reset_of_early_data(kernel: &Observation, nics: &Observation) -> bool {
    let (ours, theirs) = (&nics.endings, &kernel.endings);
    kernel.seen == nics.seen
        && ours.client == theirs.client
        && ours.server.split_first() == Some((&Mark::ResetSent, theirs.server.as_slice()))
        && !theirs.server.contains(&Mark::ResetSent)
}

/// Returns the declared difference between two observations, if theirs is one.
pub(in crate::scenario) fn find(kernel: &Observation, nics: &Observation) -> Option<&'static Difference> {
    DECLARED.iter().find(|difference| (difference.holds)(kernel, nics))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_the_same_table() {
        let documented = include_str!("../../../../docs/TRUTH.md");
        let row = |d: &Difference| format!("| `{}` | {} | {} | {} |", d.id, d.kernel, d.nics, d.why);
        for difference in DECLARED {
            let row = row(difference);
            assert!(documented.lines().any(|line| line == row), "docs/TRUTH.md lacks this line:\n{row}");
        }
        let rows = documented.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, DECLARED.len(), "docs/TRUTH.md declares something else");
    }
}
