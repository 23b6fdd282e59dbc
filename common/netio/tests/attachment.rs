//! The kernel's program at a real interface: by tcx, and as a filter of the clsact qdisc, over the life of
//! the daemons. Needs root: a user namespace may neither load BPF nor mount its file system.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod rig;

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::tc::{NlOptions, TcAttachOptions, TcAttachType};
use aya::programs::{ProgramError, SchedClassifier};
use netlink_bindings::tc::{OptionsMsg, Request, Tcmsg};
use netlink_socket2::NetlinkSocket;
use pnet_datalink::DataLinkSender;
use rig::{End, eventually, frame_sender, join, namespaces};
use rtt0_core::flow::FlowKey;
use rtt0_core::offload::{FastPath, Offloaded, Queued};
use rtt0_core::seq::Seq;
use rtt0_core::service::{Direction, Services};
use rtt0_core::wire::build::Control;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::tcp::Flags;
use rtt0_netio::fast_path::{self, Attach, Attachment, KernelOffload, OffloadOptions};
use rtt0_netio::interface;
use rtt0_netio::links::Links;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where the programs are attached.
const LINK: &str = "near0";
/// TC_H_CLSACT; with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS.
const CLSACT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// TC_H_MAJ_MASK.
const MAJOR: u32 = 0xffff_0000;
static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/offload.bpf.o");

/// An interface, a BPF file system, and a peer that sends.
struct Bench<'a> {
    interfaces: [String; 1],
    folder: &'a Path,
    mac: [u8; 6],
    peer: Box<dyn DataLinkSender>,
}

/// Runs `test` in namespaces of its own, unless this process may not make them.
fn run(test: impl FnOnce(&mut Bench<'_>) + Send) {
    let Some([near, far]) = namespaces() else { return };
    let here = End { namespace: &near, link: LINK, v4: [10, 7, 0, 1], v6: "fd07::1" };
    let there = End { namespace: &far, link: "far0", v4: [10, 7, 0, 2], v6: "fd07::2" };
    join(here, there, 1500);
    let mac = Links::open(&near).unwrap().mac(LINK).unwrap();
    let peer = frame_sender(&far, "far0");
    let mounted = tempfile::tempdir().unwrap();
    let inside = || {
        // SAFETY: unsafe only because of `UnshareFlags::FILES`, which is not given.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
        if let Err(error) = mount("bpf", mounted.path(), "bpf", MountFlags::empty(), None) {
            println!("SKIPPED: a BPF file system needs root: {error}");
            return;
        }
        let folder = &mounted.path().join("rtt0");
        test(&mut Bench { interfaces: [LINK.to_owned()], folder, mac, peer });
    };
    near.enter(inside).unwrap();
}

/// A tc filter: its parent, priority and handle, and the id of its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Filter {
    parent: u32,
    priority: u32,
    handle: u32,
    program: u32,
}

impl Bench<'_> {
    fn start(&self, attach: Attach, is_pinned: bool) -> KernelOffload {
        let options = OffloadOptions {
            interfaces: &self.interfaces,
            services: &Services::default(),
            largest: 1500,
            flows: 1000,
            pins: is_pinned.then_some(self.folder),
            attach,
            outlet: None,
            handshakes: None,
        };
        KernelOffload::start(&options).unwrap()
    }

    fn at(&self, parent: u32) -> Tcmsg {
        let ifindex = interface::by_name(LINK).unwrap().index as i32;
        Tcmsg { ifindex, parent, ..Tcmsg::new() }
    }

    /// The filters as the kernel lists them, with handle 0 for a priority, which it lists too.
    fn filters(&self) -> Vec<Filter> {
        let mut filters = Vec::new();
        for parent in [INGRESS, EGRESS] {
            let mut socket = NetlinkSocket::new();
            let request = Request::new().op_gettfilter_dump(&self.at(parent));
            let mut replies = socket.request(&request).unwrap();
            while let Some(reply) = replies.recv() {
                let (header, attributes) = reply.unwrap();
                if header.handle == 0 {
                    continue;
                }
                let Ok(OptionsMsg::Bpf(options)) = attributes.get_options() else { panic!("not of BPF") };
                let program = options.get_id().unwrap();
                let priority = header.info >> 16;
                filters.push(Filter { parent, priority, handle: header.handle, program });
            }
        }
        filters
    }

    fn the_filter(&self) -> Filter {
        let [filter] = self.filters()[..] else { panic!("not one filter: {:?}", self.filters()) };
        assert_eq!((filter.parent, filter.priority, filter.handle), (INGRESS, 82, 0x5254_5430));
        filter
    }

    /// Tells whether the interface has a qdisc for such filters.
    fn has_qdisc(&self) -> bool {
        let mut socket = NetlinkSocket::new();
        let request = Request::new().op_getqdisc_dump(&self.at(0));
        let mut replies = socket.request(&request).unwrap();
        let mut found = false;
        while let Some(reply) = replies.recv() {
            let (header, _) = reply.unwrap();
            found |= header.ifindex == self.at(0).ifindex && header.parent == CLSACT;
        }
        found
    }

    fn tcx_programs(&self) -> usize {
        SchedClassifier::query_tcx(LINK, TcAttachType::Ingress).unwrap().1.len()
    }

    fn has_nothing(&self) -> bool {
        self.filters().is_empty() && !self.has_qdisc() && self.tcx_programs() == 0 && !self.folder.exists()
    }

    /// Sends a segment of the flow.
    fn send(&mut self) {
        let mut frame = [self.mac, [2, 0, 0, 0, 0, 9]].concat();
        frame.extend([0x08, 0x00]);
        let mut packet = Vec::new();
        let [source, destination] = ends();
        let flags = Flags::ACK;
        Control { source, destination, sequence: 2, acknowledgement: 9, flags, window: 500 }
            .write(&[], &mut packet);
        Ipv4::unverified(&mut packet[..]).unwrap().fill_checksum();
        frame.extend(packet);
        self.peer.send_to(&frame, None).unwrap().unwrap();
    }

    /// Sends a segment, and waits until the flow's account has `packets`.
    #[track_caller]
    fn forwards(&mut self, kernel: &KernelOffload, packets: u64) {
        self.send();
        let mut path = kernel.path(None).unwrap();
        let mut seen = || path.look(&key()).unwrap().to_server.packets;
        eventually("the program must see the segment", || (seen() >= packets).then_some(()));
        // Another program at the same interface would count it as well.
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(seen(), packets);
    }

    /// Has a flow forwarded from its beginning to its end, and then ends the offload.
    #[track_caller]
    fn serves_a_flow_and_stops(&mut self, kernel: KernelOffload) {
        hand_the_flow(&kernel);
        self.forwards(&kernel, 1);
        recall_the_flow(&kernel);
        kernel.stop();
    }
}

fn ends() -> [(IpAddr, u16); 2] {
    [([10, 8, 0, 1].into(), 40_000), ([10, 9, 0, 1].into(), 443)]
}

fn key() -> FlowKey {
    let [client, server] = ends();
    FlowKey::new(client, server, Direction::ToServer)
}

fn hand_the_flow(kernel: &KernelOffload) {
    let mut path = kernel.path(None).unwrap();
    assert!(path.hand(&Offloaded::passing(key(), Seq::new(1), Seq::new(2)), Queued::Nothing));
}

fn recall_the_flow(kernel: &KernelOffload) {
    kernel.path(None).unwrap().recall(&key()).unwrap();
}

/// Has the kernel answer this thread's BPF_LINK_CREATE as one without tcx does, seccomp(2).
fn refuse_links() {
    const LINK_CREATE: u32 = 28;
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let unless = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let end = (libc::BPF_RET | libc::BPF_K) as u16;
    // In `seccomp_data`: the call's number, and the lower half of its first argument.
    let (number_at, command_at) = (0, if cfg!(target_endian = "big") { 20 } else { 16 });
    let refused = libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32;
    let mut program = [
        libc::sock_filter { code: load, jt: 0, jf: 0, k: number_at },
        libc::sock_filter { code: unless, jt: 0, jf: 3, k: libc::SYS_bpf as u32 },
        libc::sock_filter { code: load, jt: 0, jf: 0, k: command_at },
        libc::sock_filter { code: unless, jt: 0, jf: 1, k: LINK_CREATE },
        libc::sock_filter { code: end, jt: 0, jf: 0, k: refused },
        libc::sock_filter { code: end, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `program` and what it points to outlive the call, which copies them.
    let refuses = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    assert_eq!(refuses, 0, "{}", std::io::Error::last_os_error());
}

/// Attaches a program that lets everything go on, for want of flows and rules, as somebody else would.
fn attach_another(at: TcAttachType) -> Result<Ebpf, ProgramError> {
    let mut ebpf = Ebpf::load(OBJECT).unwrap();
    let program: &mut SchedClassifier = ebpf.program_mut("forward").unwrap().try_into().unwrap();
    program.load()?;
    program.attach_with_options(LINK, at, TcAttachOptions::Netlink(NlOptions::default()))?;
    Ok(ebpf)
}

#[test]
fn a_filter_outlives_the_process_and_is_replaced_by_the_next() {
    run(|bench| {
        let first = bench.start(Attach::Clsact, true);
        assert_eq!(first.attachment(), Attachment::Clsact);
        let old = bench.the_filter();
        assert!(bench.has_qdisc());
        hand_the_flow(&first);
        bench.forwards(&first, 1);
        // As kill -9 does: whatever the process had open is closed.
        drop(first);
        assert_eq!(bench.the_filter(), old);
        bench.send();
        let second = bench.start(Attach::Clsact, true);
        assert_ne!(bench.the_filter().program, old.program);
        assert_eq!(second.adopt(|_| true).unwrap(), (1, 0));
        bench.forwards(&second, 3);
        assert_eq!(second.counts().unwrap().packets, 1);
        recall_the_flow(&second);
        assert_eq!(second.stop(), 0);
        assert!(bench.has_nothing());
    });
}

#[test]
fn what_another_version_has_pinned_is_unpinned() {
    run(|bench| {
        let folder = bench.folder;
        fs::create_dir(folder).unwrap();
        let other = folder.join("flows1");
        // A name is all that matters: a BPF file system has no plain files.
        std::os::unix::fs::symlink("nothing", &other).unwrap();
        let kernel = bench.start(Attach::Auto, true);
        let names = || fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let flows: Vec<_> = names().filter(|name| name.as_encoded_bytes().starts_with(b"flows")).collect();
        assert_eq!(flows.len(), 1, "{flows:?}");
        assert_ne!(folder.join(&flows[0]), other);
        bench.serves_a_flow_and_stops(kernel);
        assert!(bench.has_nothing());
    });
}

#[test]
fn with_flows_a_filter_stays_until_it_is_removed() {
    run(|bench| {
        let kernel = bench.start(Attach::Clsact, true);
        hand_the_flow(&kernel);
        assert_eq!(kernel.stop(), 1);
        bench.the_filter();
        fast_path::remove(&[], Some(bench.folder));
        assert!(bench.has_nothing());
    });
}

#[test]
fn without_pins_the_filter_goes_with_the_process() {
    run(|bench| {
        drop(bench.start(Attach::Clsact, false));
        assert!(bench.has_nothing());
        let kernel = bench.start(Attach::Clsact, false);
        bench.the_filter();
        assert_eq!(kernel.stop(), 0);
        assert!(bench.has_nothing());
    });
}

#[test]
fn what_a_killed_process_without_pins_has_left_can_be_removed() {
    run(|bench| {
        std::mem::forget(bench.start(Attach::Clsact, false));
        let old = bench.the_filter();
        std::mem::forget(bench.start(Attach::Clsact, false));
        assert_ne!(bench.the_filter().program, old.program);
        fast_path::remove(&bench.interfaces, None);
        assert_eq!(bench.filters(), []);
        assert!(bench.has_qdisc(), "nobody knows any more who made it");
        // Nothing is left to remove.
        fast_path::remove(&bench.interfaces, None);
    });
}

#[test]
fn a_qdisc_of_others_stays() {
    // One of kind ingress has the same place, and takes the same filters.
    for kind in [c"clsact", c"ingress"] {
        run(|bench| {
            let qdisc = Tcmsg { handle: INGRESS & MAJOR, ..bench.at(CLSACT) };
            let mut request = Request::new().set_create().set_excl().op_newqdisc_do(&qdisc);
            request.encode().push_kind(kind);
            NetlinkSocket::new().request(&request).unwrap().recv_ack().unwrap();
            let kernel = bench.start(Attach::Clsact, true);
            bench.serves_a_flow_and_stops(kernel);
            assert_eq!(bench.filters(), []);
            assert!(bench.has_qdisc());
        });
    }
}

#[test]
fn filters_of_others_stay_and_so_does_the_qdisc() {
    for at in [TcAttachType::Ingress, TcAttachType::Egress] {
        run(|bench| {
            let kernel = bench.start(Attach::Clsact, true);
            let _another = attach_another(at).unwrap();
            bench.serves_a_flow_and_stops(kernel);
            let [filter] = bench.filters()[..] else { panic!("{:?}", bench.filters()) };
            assert_eq!(filter.parent, if at == TcAttachType::Egress { EGRESS } else { INGRESS });
            assert!(bench.has_qdisc());
        });
    }
}

#[test]
fn a_kernel_without_tcx_gets_a_filter() {
    run(|bench| {
        refuse_links();
        let kernel = bench.start(Attach::Auto, true);
        assert_eq!(kernel.attachment(), Attachment::Clsact);
        bench.the_filter();
        bench.serves_a_flow_and_stops(kernel);
        assert!(bench.has_nothing());
    });
}

#[test]
fn a_kernel_with_tcx_gets_a_link() {
    run(|bench| {
        for is_pinned in [true, false] {
            let kernel = bench.start(Attach::Auto, is_pinned);
            assert_eq!(kernel.attachment(), Attachment::Tcx);
            assert_eq!((bench.tcx_programs(), bench.filters().len(), bench.has_qdisc()), (1, 0, false));
            bench.serves_a_flow_and_stops(kernel);
            assert!(bench.has_nothing());
        }
    });
}

#[test]
fn each_way_takes_the_place_of_the_other() {
    run(|bench| {
        let by_filter = bench.start(Attach::Clsact, true);
        hand_the_flow(&by_filter);
        bench.forwards(&by_filter, 1);
        drop(by_filter);
        let by_link = bench.start(Attach::Auto, true);
        assert_eq!((bench.tcx_programs(), bench.filters().len(), bench.has_qdisc()), (1, 0, false));
        bench.forwards(&by_link, 2);
        drop(by_link);
        let by_filter = bench.start(Attach::Clsact, true);
        bench.the_filter();
        assert_eq!(bench.tcx_programs(), 0);
        bench.forwards(&by_filter, 3);
        let notes: Vec<_> =
            fs::read_dir(bench.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(notes.len(), 2, "the flows and the note of the filter: {notes:?}");
    });
}
