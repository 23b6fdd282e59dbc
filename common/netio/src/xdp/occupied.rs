//! Whether an XDP program stands on an interface: there is room for one.

use super::error::XdpError;
use super::program;
use crate::attached;
use crate::links::Links;

/// Looks for a program on the interface, rtnetlink(7), which needs no privilege.
///
/// # Errors
/// [`XdpError::Occupied`]. If the interface can't be looked at the kernel refuses the attachment by itself.
pub(super) fn check(interface: &str) -> Result<(), XdpError> {
    let programs = Links::here().and_then(|links| links.xdp_programs(interface)).unwrap_or_default();
    let Some(id) = programs.first().copied() else { return Ok(()) };
    let name = attached::program_name(id).unwrap_or_default();
    let remedy = remedy(interface, id, &name);
    Err(XdpError::Occupied { interface: interface.to_owned(), id, name, remedy })
}

fn remedy(interface: &str, id: u32, name: &str) -> String {
    if name == program::NAME {
        return "another process receives the same mirror there; end it, and the program goes with it"
            .to_owned();
    }
    format!(
        "remove it with `ip link set dev {interface} xdp off`, or, if that is refused, end the process that holds it \
         (`bpftool link show` and `bpftool prog show id {id}` name it)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stands_on_loopback() {
        assert!(check("lo").is_ok());
    }

    #[test]
    fn says_how_to_remove_it() {
        assert!(remedy("eth0", 7, program::NAME).starts_with("another process"));
        let other = remedy("eth0", 7, "xdp_dispatcher");
        assert!(other.contains("`ip link set dev eth0 xdp off`") && other.contains("id 7"), "{other}");
    }
}
