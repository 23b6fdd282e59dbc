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
    /// Whether it may be seen anywhere; else only where a scenario brings it about.
    anywhere: bool,
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
        anywhere: false,
        holds: refused_after_connect,
    },
    Difference {
        id: "unreachable-after-connect",
        kernel: "connect(): EHOSTUNREACH, EACCES or ECONNREFUSED",
        nics: "connect() succeeds; reading or writing fails with ECONNRESET, or EPIPE when writing again",
        why: "an ICMP error refuses the connection after a profile was learned: the client has been answered before \
              the server is asked. Once per profile, since the refusal forgets it",
        anywhere: false,
        holds: unreachable_after_connect,
    },
    Difference {
        id: "silent-after-connect",
        kernel: "connect(): ETIMEDOUT, after two minutes by default",
        nics: "connect() succeeds; after 15 s reading or writing fails with ECONNRESET, or EPIPE when writing again",
        why: "nothing comes back from the server's side since the profile was learned. Once per profile, since it is \
              forgotten",
        anywhere: false,
        holds: silent_after_connect,
    },
    Difference {
        id: "reset-without-timestamps",
        kernel: "the connection does without timestamps",
        nics: "connect() succeeds; reading or writing fails with ECONNRESET, or EPIPE when writing again",
        why: "the server has stopped to use timestamps since its profile was learned: the client was promised them, \
              and nobody can take that back (RFC 7323 §3.2) or invent the server's. Once per profile, since it is \
              forgotten",
        anywhere: false,
        holds: reset_without_timestamps,
    },
    Difference {
        id: "reset-after-early-probe",
        kernel: "no RST",
        nics: "an RST from the client behind both FINs; no system call shows it",
        why: "the client's own RTT sample of the early SYN-ACK is near zero, so for its first few flights its tail \
              loss probe (RFC 8985 §7) comes before an answer can. If what it repeats is its FIN, the server's \
              second ACK finds the connection closed",
        anywhere: true,
        holds: reset_after_early_probe,
    },
    Difference {
        id: "reset-of-early-data",
        kernel: "no RST",
        nics: "an RST from the server before anything else; a NIC drops it, and no system call shows it",
        why: "no ServerNIC held the early data back: since the profile was learned it has died, packets avoid it, or a \
              middlebox has come between; or they came in IPv6 fragments. The data then reach the server during its \
              handshake. Once per destination and outage, since the profile is learned anew",
        anywhere: true,
        holds: reset_of_early_data,
    },
    Difference {
        id: "reset-under-cookies",
        kernel: "no RST",
        nics: "an RST from the server behind both FINs; no system call shows it",
        why: "the server answers with SYN cookies, so its own RTT sample is that of its short leg and its tail loss \
              probe of the FIN comes before the acknowledgement. The client's second acknowledgement finds the \
              connection closed. While the server keeps no state of handshakes: in a flood of SYNs",
        anywhere: false,
        holds: servers_late_reset,
    },
    Difference {
        id: "reset-behind-confirm",
        kernel: "no RST",
        nics: "an RST from the server behind both FINs; no system call shows it",
        why: "replies avoid ClientNIC since the profile was learned, so it misses the confirm and repeats its offer; \
              the confirm then reaches the client, whose acknowledgement of it may find the server's connection \
              closed. Until the client first acknowledges the server's data",
        anywhere: false,
        holds: servers_late_reset,
    },
    Difference {
        id: "reset-of-overtaken",
        kernel: "no RST",
        nics: "an RST from the server behind both FINs; no system call shows it",
        why: "two of the client's last acknowledgements swapped on the way, and the earlier one found the connection \
              closed. Nothing that the NICs do: the testbed's veth pairs pass packets on by the processor that sent \
              them, and the client sends on several. Under kernel forwarding they swap, too",
        anywhere: true,
        holds: reset_of_overtaken,
    },
    Difference {
        id: "reset-behind-probe",
        kernel: "no RST",
        nics: "an RST from the server behind both FINs; no system call shows it",
        why: "nothing that the NICs do: plain TCP's tail loss probe of a FIN whose acknowledgement comes late, on a busy \
              machine. The second acknowledgement finds the connection closed. Only if the server has waited for two \
              path RTTs, and so has not been made to believe in a shorter path",
        anywhere: true,
        holds: reset_behind_probe,
    },
    Difference {
        id: "no-late-reset",
        kernel: "an RST from either end behind both FINs; no system call shows it",
        nics: "no RST",
        why: "nothing that the NICs do: plain TCP's tail loss probe of a FIN whose acknowledgement comes late, on a busy \
              machine, or an acknowledgement that was overtaken. It finds the connection closed",
        anywhere: true,
        holds: no_late_reset,
    },
];

fn refused_after_connect(kernel: &Observation, nics: &Observation) -> bool {
    kernel.seen.client == [Event::Failed(libc::ECONNREFUSED)]
        && nics.seen.server == kernel.seen.server
        && is_reset_after_connect(nics)
}

fn unreachable_after_connect(kernel: &Observation, nics: &Observation) -> bool {
    let told = [libc::EHOSTUNREACH, libc::EACCES, libc::ECONNREFUSED].map(|errno| vec![Event::Failed(errno)]);
    told.contains(&kernel.seen.client)
        && nics.seen.server == kernel.seen.server
        && is_reset_after_connect(nics)
}

fn silent_after_connect(kernel: &Observation, nics: &Observation) -> bool {
    kernel.seen.client == [Event::Failed(libc::ETIMEDOUT)]
        && nics.seen.server == kernel.seen.server
        && is_reset_after_connect(nics)
}

fn reset_without_timestamps(kernel: &Observation, nics: &Observation) -> bool {
    !kernel.seen.has(|event| matches!(event, Event::Failed(_)))
        && nics.seen.server == [Event::Failed(libc::EAGAIN)]
        && is_reset_after_connect(nics)
}

/// Tells whether all a client got of its connection was a reset. What it does with its socket
/// behind that shows nothing more of the connection.
fn is_reset_after_connect(nics: &Observation) -> bool {
    let Some((Event::Connected, rest)) = nics.seen.client.split_first() else { return false };
    let mut rest = rest.iter().skip_while(|event| matches!(event, Event::Sent(_)));
    matches!(rest.next(), Some(Event::Failed(libc::ECONNRESET | libc::EPIPE)))
        && !rest.any(|event| matches!(event, Event::Received { .. } | Event::Urgent(_)))
        && nics.endings.client.contains(&Mark::ResetReceived)
}

/// Tells whether there is one mark more at the end.
fn one_more(marks: &[Mark], as_ever: &[Mark], mark: Mark) -> bool {
    marks.split_last() == Some((&mark, as_ever)) && !as_ever.contains(&mark)
}

fn reset_after_early_probe(kernel: &Observation, nics: &Observation) -> bool {
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

fn servers_late_reset(kernel: &Observation, nics: &Observation) -> bool {
    let (ours, theirs) = (&nics.endings, &kernel.endings);
    kernel.seen == nics.seen
        && theirs.server.contains(&Mark::FinSent)
        && theirs.server.contains(&Mark::FinReceived)
        && one_more(&ours.server, &theirs.server, Mark::ResetSent)
        && (ours.client == theirs.client || one_more(&ours.client, &theirs.client, Mark::ResetReceived))
}

fn reset_of_overtaken(kernel: &Observation, nics: &Observation) -> bool {
    servers_late_reset(kernel, nics) && nics.endings.resets_overtaken()
}

fn reset_behind_probe(kernel: &Observation, nics: &Observation) -> bool {
    servers_late_reset(kernel, nics) && nics.endings.resets_behind_probe()
}

fn no_late_reset(kernel: &Observation, nics: &Observation) -> bool {
    without_late_reset(kernel).is_some_and(|punctual| punctual == *nics)
}

/// Returns the declared difference between two observations, if theirs is one that may be seen
/// anywhere or is `expected`.
pub(in crate::scenario) fn find(
    kernel: &Observation,
    nics: &Observation,
    expected: Option<&str>,
) -> Option<&'static Difference> {
    let allowed = |difference: &&Difference| difference.anywhere || expected == Some(difference.id);
    // Plain TCP's own late reset may come together with anything else.
    let punctual = without_late_reset(kernel);
    let holds = |difference: &&Difference| {
        (difference.holds)(kernel, nics)
            || punctual.as_ref().is_some_and(|kernel| (difference.holds)(kernel, nics))
    };
    DECLARED.iter().filter(allowed).find(holds)
}

/// Returns an observation with late resets as it would be without; `None` if there are none.
fn without_late_reset(kernel: &Observation) -> Option<Observation> {
    let mut punctual = kernel.clone();
    punctual.endings.forget_late_resets();
    (punctual != *kernel).then_some(punctual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::conversation::Seen;
    use crate::scenario::oracle::Endings;
    use Mark::{FinReceived, FinSent, ResetReceived, ResetSent};

    fn observed(client: &[Mark], server: &[Mark]) -> Observation {
        let seen = Seen { client: Vec::new(), server: Vec::new() };
        Observation {
            seen,
            endings: Endings { client: client.to_vec(), server: server.to_vec(), ..Endings::default() },
        }
    }

    #[test]
    fn a_late_reset_of_plain_tcp_hides_no_other_difference_and_excuses_none() {
        let late = observed(&[FinSent, FinReceived, ResetReceived], &[FinReceived, FinSent, ResetSent]);
        let nics = |server: &[Mark]| observed(&[FinSent, FinReceived], server);
        let found = |nics: &Observation| find(&late, nics, Some("reset-of-early-data")).map(|d| d.id);
        assert_eq!(found(&nics(&[FinReceived, FinSent])), Some("no-late-reset"));
        assert_eq!(found(&nics(&[ResetSent, FinReceived, FinSent])), Some("reset-of-early-data"));
        assert_eq!(found(&nics(&[FinReceived, ResetSent, FinSent])), None);
        let late = observed(&[FinReceived, FinSent, ResetSent], &[FinSent, FinReceived]);
        let nics = observed(&[FinReceived, FinSent], &[FinSent, FinReceived]);
        assert_eq!(find(&late, &nics, None).map(|d| d.id), Some("no-late-reset"));
        assert_eq!(find(&nics, &late, None).map(|d| d.id), Some("reset-after-early-probe"));
    }

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
