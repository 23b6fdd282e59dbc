//! How the program comes to an interface's ingress: by a tcx link, or where the kernel has none (before
//! Linux 6.6) as a filter of the clsact qdisc.

use std::fmt;

use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};

use super::clsact::{self, Filter};
use super::pins::Pins;
use crate::interface;

/// How the program is to be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attach {
    /// By tcx; by clsact if the kernel refuses that.
    #[default]
    Auto,
    /// By clsact, as on an older kernel.
    Clsact,
}

/// How the program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// By a link, which is pinned or ends with the process.
    Tcx,
    /// As a filter with a fixed priority and handle, which stays until it is taken away.
    Clsact,
}

impl Attachment {
    /// Returns the command that takes the program from an interface for good, if that needs more than to
    /// remove what is pinned.
    pub fn removal(self, interface: &str) -> Option<String> {
        match self {
            Self::Tcx => None,
            Self::Clsact => Some(format!("tc filter del dev {interface} ingress pref {}", clsact::PRIORITY)),
        }
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// The program on all interfaces. The tcx links are the program's own, or pinned.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) by: Attachment,
    /// Held for their end.
    _filters: Vec<Filter>,
}

impl Attached {
    /// Attaches the program to the interfaces, each in the place of what an earlier process has left there.
    pub(super) fn new(
        program: &mut SchedClassifier,
        interfaces: &[String],
        attach: Attach,
        pins: Option<&Pins>,
    ) -> Result<Self, ProgramError> {
        let mut by = match attach {
            Attach::Auto => Attachment::Tcx,
            Attach::Clsact => Attachment::Clsact,
        };
        let mut filters = Vec::new();
        for interface in interfaces {
            if by == Attachment::Tcx {
                match attach_by_tcx(program, interface, pins) {
                    Err(ProgramError::SyscallError(error)) => {
                        tracing::debug!(%error, interface, "the kernel refuses tcx");
                        by = Attachment::Clsact;
                    }
                    attached => {
                        attached?;
                        remove_filter(interface, pins);
                        continue;
                    }
                }
            }
            if let Some(pins) = pins {
                pins.remove_link(interface);
            }
            filters.push(Filter::attach(program, interface, pins)?);
        }
        Ok(Self { by, _filters: filters })
    }
}

/// Attaches the program, or has the link that an earlier process has pinned use it.
fn attach_by_tcx(
    program: &mut SchedClassifier,
    interface: &str,
    pins: Option<&Pins>,
) -> Result<(), ProgramError> {
    if let Some(link) = pins.and_then(|pins| pins.link(interface)) {
        if program.attach_to_link(link).is_ok() {
            return Ok(());
        }
        // Of an interface that is no more.
        if let Some(pins) = pins {
            pins.remove_link(interface);
        }
    }
    // Before others, which may end the classification: the guard would drop what the program has not seen.
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, TcAttachType::Ingress, options)?;
    if let Some(pins) = pins {
        let link: SchedClassifierLink = program.take_link(id)?;
        let link = pins.keep_link(interface, link)?;
        program.attach_to_link(link)?;
    }
    Ok(())
}

/// Takes away the filter that an earlier process may have left on an interface.
pub(super) fn remove_filter(interface: &str, pins: Option<&Pins>) {
    let Ok(interface) = interface::by_name(interface) else { return };
    clsact::remove(interface.index, pins.is_some_and(|pins| pins.has_made_qdisc(interface.index)));
    if let Some(pins) = pins {
        pins.forget_filter(interface.index);
    }
}
