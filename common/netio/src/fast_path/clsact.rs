//! The program as a filter of an interface's clsact qdisc, tc-bpf(8): for kernels without tcx.
//!
//! Such a filter belongs to no process and stays until it is taken away. What is ours is known by its
//! priority and handle, so that whoever comes next replaces it in place. There is one per interface.

use std::io;
use std::mem;

use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle};
use aya::programs::{ProgramError, SchedClassifier, tc};
use netlink_bindings::tc::{Request, Tcmsg};
use netlink_bindings::traits::NetlinkRequest;
use netlink_socket2::NetlinkSocket;

use super::pins::Pins;
use crate::emit::EMIT_MARK;
use crate::interface;

/// Ahead of nearly all other filters, since one that comes first and ends the classification hides packets that the
/// guard then drops; and none that others are likely to choose, since a priority has one kind of filter.
pub(super) const PRIORITY: u16 = 82;
/// Ours; nobody else has reason to choose it.
const HANDLE: u32 = EMIT_MARK;
/// TC_H_MAKE(TC_H_CLSACT, 0): the qdisc's own handle.
const QDISC: u32 = 0xffff_0000;
/// TC_H_CLSACT: where the qdisc is.
const PARENT: u32 = 0xffff_fff1;
/// TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS) and the same for egress: where its filters are.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// Our filter on an interface. Dropping it removes it, unless it is noted down to outlive the process.
#[derive(Debug)]
pub(super) struct Filter {
    index: u32,
    made_qdisc: bool,
    outlives: bool,
}

impl Filter {
    /// Attaches the program, or has the filter that an earlier process has left use it; with `pins`, for as
    /// long as nobody takes it away.
    pub(super) fn attach(
        program: &mut SchedClassifier,
        interface: &str,
        pins: Option<&Pins>,
    ) -> Result<Self, ProgramError> {
        let index = interface::by_name(interface).map_err(io::Error::other)?.index;
        let made_qdisc = add_qdisc(interface)? || pins.is_some_and(|pins| pins.has_made_qdisc(index));
        let mut filter = Self { index, made_qdisc, outlives: false };
        if let Some(pins) = pins {
            pins.note_filter(index, made_qdisc)?;
        }
        let (priority, handle) = (PRIORITY, TcHandle::from(HANDLE));
        let ingress = TcAttachType::Ingress;
        let old = SchedClassifierLink::attached(interface, ingress, priority, handle, None)?;
        let id = match program.attach_to_link(old) {
            Err(error) if errno(&error) == Some(libc::ENOENT) => {
                let options = NlOptions { priority, handle, classid: None };
                program.attach_with_options(interface, ingress, TcAttachOptions::Netlink(options))?
            }
            replaced => replaced?,
        };
        // It would take the filter away with the program. It holds nothing else.
        mem::forget(program.take_link(id)?);
        filter.outlives = pins.is_some();
        Ok(filter)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if !self.outlives {
            remove(self.index, self.made_qdisc);
        }
    }
}

/// Removes our filter from an interface, if there is one; with `made_qdisc` also the qdisc, unless others
/// have put filters there. (Who does so between the look and the removal loses them.)
pub(super) fn remove(index: u32, made_qdisc: bool) {
    let socket = &mut NetlinkSocket::new();
    let info = u32::from(PRIORITY) << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    let filter = Tcmsg { handle: HANDLE, info, ..at(index, INGRESS) };
    let removed = ask(socket, &Request::new().op_deltfilter_do(&filter));
    let removed = removed.and_then(|()| {
        if !made_qdisc || has_filters(socket, index, INGRESS)? || has_filters(socket, index, EGRESS)? {
            return Ok(());
        }
        let qdisc = Tcmsg { handle: QDISC, ..at(index, PARENT) };
        ask(socket, &Request::new().op_delqdisc_do(&qdisc))
    });
    if let Err(error) = removed {
        tracing::warn!(%error, interface = index, "the tc filter can't be removed");
    }
}

/// Makes the qdisc; tells whether there was none.
fn add_qdisc(interface: &str) -> Result<bool, ProgramError> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => Ok(true),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn has_filters(socket: &mut NetlinkSocket, index: u32, parent: u32) -> io::Result<bool> {
    let request = Request::new().op_gettfilter_dump(&at(index, parent));
    let mut replies = socket.request(&request)?;
    let mut found = false;
    while let Some(reply) = replies.recv() {
        reply?;
        found = true;
    }
    Ok(found)
}

/// Asks for something to be taken away; that it, or what it is part of, is not there is no error.
fn ask(socket: &mut NetlinkSocket, request: &impl NetlinkRequest) -> io::Result<()> {
    let answer = socket.request(request)?.recv_ack().map_err(io::Error::from);
    match answer {
        Err(error) if is_absence(&error) => Ok(()),
        answer => answer,
    }
}

/// No such filter, qdisc, interface; no tc in the kernel at all.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV | libc::EOPNOTSUPP))
}

fn at(index: u32, parent: u32) -> Tcmsg {
    Tcmsg { ifindex: index as i32, parent, ..Tcmsg::new() }
}

/// What the kernel said to aya's netlink request.
fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::TcError(TcError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    }
}
