//! Replies: which are wanted, and the thread that gives them back.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rtt0_netio::capture::filter::TooManyRules;
use rtt0_netio::capture::{Capture, CaptureOptions};
use rtt0_netio::clock;
use rtt0_netio::counters::IoCounters;
use rtt0_netio::emit::{Emitter, REPLIES_MARK};
use rtt0_netio::guard::Exit;
use rtt0_netio::interface;
use rtt0_netio::replies::{Carried, Claimed, Ports, Reply};
use rtt0_netio::worker::{Worker, WorkerHandle, WorkerOptions};

use crate::config::Config;
use crate::counts::Counts;
use crate::examples::Examples;
use crate::inner::Transport;
use crate::nat::{Rule, Rules, SharedReplies};
use crate::pipeline::Pipeline;
use crate::replied::Replied;
use crate::restore::Restore;

/// Which replies are wanted, and by which interfaces they come and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    arrive_by: String,
    leave_by: String,
    /// In order, each once.
    replies: Vec<Reply>,
}

impl Wanted {
    /// Returns what a configuration wants; `None` if no rule asks for replies.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let replies = kinds(&config.rules);
        let (arrive_by, leave_by) = (config.egress.clone()?, config.replies_egress.clone()?);
        (!replies.is_empty()).then_some(Self { arrive_by, leave_by, replies })
    }

    /// Makes the description that capture and guard share, on a host with these addresses.
    ///
    /// # Errors
    /// The rules want more kinds of replies than one filter can tell apart.
    pub(super) fn claimed(&self, local: &[IpAddr]) -> Result<Claimed, TooManyRules> {
        Claimed::new(self.replies.clone(), local)
    }

    /// Opens the capture. The kernel gets none of what it takes as soon as the guard stands.
    ///
    /// # Errors
    /// Too many kinds of replies, or the capture can't be opened.
    pub(super) fn open(&self) -> anyhow::Result<Opened<'_>> {
        let claimed = self.claimed(&interface::local_addresses())?;
        let capture = Capture::open_replies(&self.arrive_by, &claimed, &CaptureOptions::default())?;
        Ok(Opened { wanted: self, claimed, capture })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by {} to {}", self.arrive_by, self.leave_by)?;
        self.replies.iter().try_for_each(|reply| write!(f, "; {reply}"))
    }
}

/// Replies that are captured, and nobody serves yet.
pub(super) struct Opened<'a> {
    wanted: &'a Wanted,
    claimed: Claimed,
    capture: Capture,
}

impl Opened<'_> {
    /// The only way out for what is given back.
    pub(super) fn exit(&self) -> Exit<'_> {
        Exit { interface: &self.wanted.leave_by, mark: REPLIES_MARK }
    }

    /// What the guard has to drop, and where.
    pub(super) fn claimed(&self) -> (&str, &Claimed) {
        (&self.wanted.arrive_by, &self.claimed)
    }

    /// Starts the thread that restores replies, by what is remembered in `flows`.
    ///
    /// # Errors
    /// Its sockets or the thread can't be made.
    pub(super) fn serve(
        self,
        flows: SharedReplies,
        processor: Option<usize>,
    ) -> anyhow::Result<(Serving, WorkerHandle)> {
        let counts = Arc::<Counts>::default();
        // Its packets are in no tunnel: they are no examples of what comes there.
        let pipeline =
            Pipeline::new(Restore::new(flows.clone()), Arc::clone(&counts), Arc::<Examples>::default());
        let emitter = Emitter::open_bound(&self.wanted.leave_by, REPLIES_MARK)?;
        let options = WorkerOptions { name: "replies-0".to_owned(), processor, ..WorkerOptions::default() };
        let worker = Worker::spawn(pipeline, vec![self.capture], emitter, None, None, &options)?;
        let io = Arc::clone(worker.stats());
        Ok((Serving { counts, io, flows }, worker))
    }
}

/// What is counted of the thread that restores replies, also when it has ended.
pub(super) struct Serving {
    counts: Arc<Counts>,
    io: Arc<IoCounters>,
    flows: SharedReplies,
}

impl Serving {
    /// Lets go of idle flows, and looks at everything that is counted.
    pub(super) fn look(&self) -> Replied {
        self.flows.expire(clock::now());
        Replied::new(&self.counts, &self.io, &self.flows)
    }
}

/// Returns what replies to the packets look like that rules translate.
fn kinds(rules: &Rules) -> Vec<Reply> {
    let wanting = rules.iter().map(|(_, rule)| rule).filter(|rule| rule.replies);
    let mut kinds: Vec<Reply> = wanting.flat_map(kinds_of).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

fn kinds_of(rule: &Rule) -> impl Iterator<Item = Reply> {
    let ports = match (rule.to.1, &rule.matching.ports) {
        (Some(port), _) => Ports { low: port, high: port },
        // The port stays as it is.
        (None, Some(ports)) => Ports { low: *ports.start(), high: *ports.end() },
        (None, None) => Ports { low: 0, high: u16::MAX },
    };
    let carried = [
        (Transport::Tcp, Carried::Tcp(ports)),
        (Transport::Udp, Carried::Udp(ports)),
        (Transport::Icmp, Carried::EchoReply),
    ];
    let (source, destination) = (rule.to.0, rule.from.map(|from| from.0));
    let own = carried.into_iter().filter(|(transport, _)| rule.is_for(*transport));
    own.map(move |(_, carries)| Reply { source, carries, destination })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const KEYS: &str = "interface = \"in0\"\negress = \"out0\"\nreplies_egress = \"else0\"\n";

    fn wanted(rules: &str) -> Option<Wanted> {
        let text = format!("{KEYS}[[tunnel]]\nkind = \"vxlan\"\n{rules}");
        Wanted::of(&Config::parse(&text, Path::new("mirror.toml")).unwrap())
    }

    fn told(rules: &str) -> String {
        wanted(rules).unwrap().to_string()
    }

    #[test]
    fn what_is_claimed_is_what_rules_can_be_answered_with() {
        let rule = |keys: &str| format!("[[rule]]\nname = \"a\"\nreplies = true\n{keys}\n");
        let both = "by out0 to else0; ";
        for (keys, kinds) in [
            (
                "protocol = \"udp\"\nto = \"192.0.2.95:8081\"",
                "UDP from 192.0.2.95, port 8081, to other hosts",
            ),
            (
                "protocol = \"tcp\"\nports = \"80-90\"\nto = \"192.0.2.95\"\nfrom = \"192.0.2.1\"",
                "TCP from 192.0.2.95, ports 80-90, to 192.0.2.1",
            ),
            ("protocol = \"icmp\"\nto = \"2001:db8::95\"", "echo replies from 2001:db8::95, to other hosts"),
            // Any protocol; a port rules ICMP out.
            (
                "to = \"192.0.2.95:8081\"",
                "TCP from 192.0.2.95, port 8081, to other hosts; UDP from 192.0.2.95, port 8081, to other hosts",
            ),
            (
                "to = \"192.0.2.95\"",
                "TCP from 192.0.2.95, any port, to other hosts; UDP from 192.0.2.95, any port, to other hosts; \
                 echo replies from 192.0.2.95, to other hosts",
            ),
        ] {
            assert_eq!(told(&rule(keys)), format!("{both}{kinds}"), "{keys}");
        }
    }

    #[test]
    fn rules_that_can_be_answered_alike_count_once_in_any_order_and_others_not_at_all() {
        let rule =
            |name: &str, rest: &str| format!("[[rule]]\nname = \"{name}\"\nprotocol = \"udp\"\n{rest}\n");
        let (a, b) = ("replies = true\nto = \"192.0.2.95:8081\"", "replies = true\nto = \"192.0.2.96:8081\"");
        let one = wanted(&(rule("a", a) + &rule("b", b)));
        let other =
            wanted(&(rule("b", b) + &rule("c", a) + &rule("a", a) + &rule("d", "to = \"192.0.2.97\"")));
        assert_eq!(one, other);
        assert_eq!(one.unwrap().replies.len(), 2);
        assert_eq!(wanted(&rule("a", "to = \"192.0.2.95:8081\"")), None);
    }
}
