//! The kernel's functions by the addresses of instructions in them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

const KALLSYMS: &str = "/proc/kallsyms";
/// Longer than any function.
const LONGEST_FUNCTION: u64 = 1 << 20;

/// Returns the functions that the given return addresses are in; none of those that can't be told. Where
/// `kernel.kptr_restrict` or a missing `CAP_SYSLOG` hides the addresses, that is all of them.
///
/// # Errors
/// `open(2)`'s or `read(2)`'s.
pub(super) fn functions(addresses: impl IntoIterator<Item = u64>) -> io::Result<HashMap<u64, String>> {
    find(BufReader::with_capacity(1 << 16, File::open(KALLSYMS)?), addresses)
}

/// The table has a hundred thousand lines in no order; only those that are wanted are kept.
fn find(table: impl BufRead, addresses: impl IntoIterator<Item = u64>) -> io::Result<HashMap<u64, String>> {
    let mut wanted: Vec<u64> = addresses.into_iter().collect();
    wanted.sort_unstable();
    wanted.dedup();
    // For each the last function before it that lies behind the one before it.
    let mut nearest: Vec<Option<(u64, String)>> = vec![None; wanted.len()];
    for line in table.split(b'\n') {
        let line = line?;
        let Some((begin, name)) = std::str::from_utf8(&line).ok().and_then(function) else { continue };
        // A return address is never that of a function's first byte.
        let Some(best) = nearest.get_mut(wanted.partition_point(|address| *address <= begin)) else {
            continue;
        };
        if best.as_ref().is_none_or(|(known, _)| *known < begin) {
            *best = Some((begin, name.to_owned()));
        }
    }
    let mut found = HashMap::new();
    let mut last: Option<(u64, String)> = None;
    for (address, best) in wanted.into_iter().zip(nearest) {
        last = best.or(last);
        if let Some((begin, name)) = &last
            && address - begin < LONGEST_FUNCTION
        {
            found.insert(address, name.clone());
        }
    }
    Ok(found)
}

/// Reads a line such as `ffffffff81a3c0d0 T nf_hook_slow`: the address of a function, and its name without what the
/// compiler appends (`.isra.0`, `.cold`).
fn function(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok().filter(|address| *address != 0)?;
    let kind = words.next()?;
    let name = words.next()?.split('.').next().filter(|name| !name.is_empty())?;
    matches!(kind, "t" | "T" | "w" | "W").then_some((address, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &str = "\
ffffffff81000100 T first
ffffffff81000300 t third.isra.0
ffffffff81000200 D variable
ffffffff81000200 T second
ffffffffc0000000 t nft_do_chain\t[nf_tables]
";

    fn names(table: &str, addresses: &[u64]) -> Vec<Option<String>> {
        let found = find(table.as_bytes(), addresses.iter().copied()).unwrap();
        addresses.iter().map(|address| found.get(address).cloned()).collect()
    }

    #[test]
    fn an_address_is_in_the_function_that_begins_before_it() {
        let addresses = [
            0xffff_ffff_8100_0101,
            0xffff_ffff_8100_0250,
            0xffff_ffff_8100_02f0,
            0xffff_ffff_8100_0300,
            0xffff_ffff_8100_0310,
            0xffff_ffff_c000_0010,
        ];
        let expected = ["first", "second", "second", "second", "third", "nft_do_chain"];
        assert_eq!(names(TABLE, &addresses), expected.map(|name| Some(name.to_owned())));
    }

    #[test]
    fn what_is_in_no_function_has_no_name() {
        assert_eq!(names(TABLE, &[0, 0xffff_ffff_8100_0100, 0xffff_ffff_9000_0000]), [None, None, None]);
    }

    #[test]
    fn hidden_addresses_tell_nothing() {
        let hidden = "0000000000000000 T first\n0000000000000000 T second\n";
        assert_eq!(names(hidden, &[0xffff_ffff_8100_0101]), [None]);
    }

    proptest! {
        #[test]
        fn it_finds_what_a_search_through_all_finds(
            begins in prop::collection::btree_set(1u64..4000, 0..40),
            addresses in prop::collection::vec(0u64..5000, 0..20),
            text in "\\PC{0,80}",
        ) {
            let mut table = text;
            table.push('\n');
            // In an order of no meaning.
            let mut lines: Vec<_> = begins.iter().map(|begin| format!("{begin:x} T f{begin}\n")).collect();
            lines.sort();
            table.extend(lines);
            let found = find(table.as_bytes(), addresses.iter().copied()).unwrap();
            for address in addresses {
                let expected = begins.range(..address).next_back().map(|begin| format!("f{begin}"));
                prop_assert_eq!(found.get(&address).cloned(), expected);
            }
        }
    }
}
