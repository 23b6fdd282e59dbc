//! Faults injected between real kernels, and what the doctor makes of each: the proof that it names the layer and the cause,
//! and that it leaves healthy hosts alone.
//!
//! ```text
//!  case ─► site ────────────► inject ─► traffic ─► doctor --json ─► verdict ─► table
//!          hosts, daemons,    nft, tc,             a process on
//!          servers            BPF, routes, …       the sick host
//! ```

mod bpf;
mod case;
mod cgroup;
mod healthy;
mod markdown;
mod run;
mod shell;
mod sick;
mod site;
mod traffic;
mod verdict;

pub use case::{Case, Expected};
pub use run::{FaultsArgs, command};

/// All cases: the faults first, then the healthy ones.
pub fn all() -> impl Iterator<Item = &'static Case> {
    sick::GROUPS.iter().copied().flatten().chain(healthy::ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_enough_and_each_has_a_name_of_its_own() {
        let names: Vec<_> = all().map(|case| case.name).collect();
        let unique: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(names.len(), unique.len());
        assert!(all().filter(|case| case.expected.is_some()).count() >= 40);
        assert!(all().filter(|case| case.expected.is_none()).count() >= 20);
    }

    #[test]
    fn what_is_expected_can_be_said() {
        for case in all() {
            for cause in case.expected.iter().flat_map(|expected| expected.causes) {
                assert!(rtt0_doctor::causes::ALL.iter().any(|known| known.id == *cause), "{cause}");
            }
        }
    }
}
