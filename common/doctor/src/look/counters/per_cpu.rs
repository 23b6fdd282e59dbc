//! Files with a line of hexadecimal numbers for each processor: `/proc/net/softnet_stat` and those under `/proc/net/stat`.

use std::collections::BTreeMap;

use super::{Seen, proc_net};

/// The processors' work on received packets. The kernel keeps it for all network namespaces together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Softnet {
    /// Processors.
    pub processors: u64,
    /// Packets taken from devices.
    pub processed: u64,
    /// Packets dropped because a processor's queue was full (`net.core.netdev_max_backlog`), or by its flow limit.
    pub dropped: u64,
    /// Times that work was left because the time or the budget was used up (`net.core.netdev_budget`).
    pub squeezed: u64,
}

/// Reads `/proc/net/softnet_stat`.
pub(super) fn softnet() -> Seen<Softnet> {
    let softnet = parse_softnet(&proc_net("softnet_stat")?);
    if softnet.processors == 0 { Err("/proc/net/softnet_stat is empty".to_owned()) } else { Ok(softnet) }
}

fn parse_softnet(text: &str) -> Softnet {
    let mut sum = Softnet::default();
    for line in text.lines() {
        let numbers = numbers(line);
        if let [processed, dropped, squeezed, ..] = numbers[..] {
            sum.processors += 1;
            sum.processed += processed;
            sum.dropped += dropped;
            sum.squeezed += squeezed;
        }
    }
    sum
}

/// Sums the columns of a file that begins with a line of their names.
pub(super) fn columns(text: &str) -> BTreeMap<String, u64> {
    let mut lines = text.lines();
    let names: Vec<_> = lines.next().unwrap_or_default().split_ascii_whitespace().collect();
    let mut sums = BTreeMap::new();
    for line in lines {
        for (name, number) in names.iter().zip(numbers(line)) {
            let sum: &mut u64 = sums.entry((*name).to_owned()).or_default();
            *sum = sum.saturating_add(number);
        }
    }
    sums
}

/// Numbers of at most eight digits, as the kernel writes them: sums of all processors' fit into 64 bits.
fn numbers(line: &str) -> Vec<u64> {
    line.split_ascii_whitespace()
        .map_while(|word| u32::from_str_radix(word, 16).ok())
        .map(u64::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn softnet_is_summed() {
        let text =
            "17090316 00000003 00000049 00000000 00000000\n00000001 00000002 00000047 00000000 00000000\n";
        let softnet = Softnet { processors: 2, processed: 0x1709_0317, dropped: 5, squeezed: 0x90 };
        assert_eq!(parse_softnet(text), softnet);
    }

    #[test]
    fn columns_are_summed_by_name() {
        let text = "entries  clashres found new invalid ignore\n0000000a  00000000 00000001 00000000 00000002 0\n\
                    0000000a  00000000 00000001 00000000 00000003 0\n";
        let sums = columns(text);
        assert_eq!((sums["found"], sums["invalid"], sums.get("drop")), (2, 5, None));
    }

    #[test]
    fn this_kernel_has_them() {
        assert!(softnet().unwrap().processed > 0);
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "([a-z0-9 ]|\n)*") {
            columns(&text);
            parse_softnet(&text);
        }
    }
}
