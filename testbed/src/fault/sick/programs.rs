//! BPF programs and filters of traffic control.

use std::io;
use std::os::fd::AsRawFd;
use std::process::Stdio;

use rtt0_core::wire::PROTOCOL_TCP;
use rtt0_doctor::Layer;
use rtt0_netio::links::Links;

use super::super::bpf::{self, Hook};
use super::super::case::{BASE, Case, Patient, Place, expect};
use super::super::shell::{Untriable, run, run_words};
use super::super::site::Site;
use super::super::traffic::Kind;
use super::{TCP_PROBE, UDP_PROBE};
use crate::compare::choice::IpVersion::V4;
use crate::nic;
use crate::process::Process;

const UDP: u8 = 17;
const SERVER: Patient = Patient::Host(Place::Server);

/// Attaches a program at a host's device.
fn at_device(site: &mut Site, place: Place, hook: Hook, protocol: u8) -> anyhow::Result<()> {
    let host = site.host(place);
    let index = Links::open(host.namespace())?.index("eth0")?;
    let attached = host.enter(|| bpf::attach(hook, index, protocol))?.map_err(forbidden)?;
    site.keep(attached);
    Ok(())
}

/// Attaches one to the control group of the doctor.
fn at_cgroup(site: &mut Site, hook: Hook, protocol: u8) -> anyhow::Result<()> {
    let folder = site.cgroup()?.as_fd().as_raw_fd().cast_unsigned();
    let attached = bpf::attach(hook, folder, protocol).map_err(forbidden)?;
    site.keep(attached);
    Ok(())
}

fn forbidden(error: io::Error) -> anyhow::Error {
    Untriable::unless_permitted("BPF programs", error)
}

pub(super) const ALL: &[Case] = &[
    Case {
        name: "cgroup-egress-udp",
        about: "the field case: send_to succeeds, OutDatagrams rises, the tap sees nothing leave, TCP works: a BPF program of the \
                control group drops what its sockets send over UDP",
        expected: expect(&["cgroup-drop"], Layer::Cgroup),
        arguments: UDP_PROBE,
        inject: |site| at_cgroup(site, Hook::CgroupEgress, UDP),
        ..BASE
    },
    Case {
        name: "cgroup-egress-tcp",
        about: "likewise for TCP",
        expected: expect(&["cgroup-drop"], Layer::Cgroup),
        arguments: TCP_PROBE,
        inject: |site| at_cgroup(site, Hook::CgroupEgress, PROTOCOL_TCP),
        ..BASE
    },
    Case {
        name: "cgroup-sendmsg",
        about: "a BPF program of the control group refuses sendmsg(2) with EPERM",
        expected: expect(&["cgroup-drop"], Layer::Cgroup),
        arguments: UDP_PROBE,
        inject: |site| at_cgroup(site, Hook::CgroupSendmsg, UDP),
        ..BASE
    },
    Case {
        name: "cgroup-connect",
        about: "a BPF program of the control group refuses connect(2) with EPERM",
        expected: expect(&["cgroup-drop"], Layer::Cgroup),
        arguments: TCP_PROBE,
        inject: |site| at_cgroup(site, Hook::CgroupConnect, PROTOCOL_TCP),
        ..BASE
    },
    Case {
        name: "cgroup-ingress",
        about: "a BPF program of the control group in which the server runs drops what it receives",
        expected: expect(&["cgroup-drop"], Layer::Cgroup),
        patient: SERVER,
        traffic: &[Kind::Tcp(V4)],
        inject: |site| {
            site.stop_servers();
            at_cgroup(site, Hook::CgroupIngress, PROTOCOL_TCP)?;
            let mut command = site.host(Place::Server).command(nic::executable()?);
            command.args(["serve", "--address", "10.1.2.10:8080"]).stdout(Stdio::null());
            site.cgroup()?.run_inside(&mut command);
            let server = Process::spawn(command)?;
            site.keep(server);
            std::thread::sleep(std::time::Duration::from_millis(200));
            Ok(())
        },
        ..BASE
    },
    Case {
        name: "tcx-egress",
        about: "a tcx program drops UDP at the egress of the client's device; TCP works",
        expected: expect(&["tc-drop"], Layer::TcEgress),
        arguments: UDP_PROBE,
        inject: |site| at_device(site, Place::Client, Hook::TcEgress, UDP),
        ..BASE
    },
    Case {
        name: "tcx-ingress",
        about: "a tcx program drops UDP at the ingress of the server's device",
        expected: expect(&["tc-drop"], Layer::TcIngress),
        patient: SERVER,
        traffic: &[Kind::Udp(V4)],
        inject: |site| at_device(site, Place::Server, Hook::TcIngress, UDP),
        ..BASE
    },
    Case {
        name: "tc-filter",
        about: "a classic filter of tc at clsact drops everything that arrives for the server over UDP",
        expected: expect(&["tc-drop"], Layer::TcIngress),
        patient: SERVER,
        traffic: &[Kind::Udp(V4)],
        inject: |site| {
            let server = site.host(Place::Server);
            run(server, "tc qdisc add dev eth0 clsact")?;
            // Loads the protocol's byte; 2 is TC_ACT_SHOT, -1 goes on with the next filter.
            let code = "4,48 0 0 23,21 0 1 17,6 0 0 2,6 0 0 4294967295";
            let filter = "tc filter add dev eth0 ingress protocol ip bpf da bytecode";
            run_words(server, filter, &[code])
        },
        ..BASE
    },
    Case {
        name: "xdp",
        about: "an XDP program drops TCP at the server's device",
        expected: expect(&["xdp-drop"], Layer::Xdp),
        patient: SERVER,
        traffic: &[Kind::Tcp(V4), Kind::Tcp(V4)],
        inject: |site| at_device(site, Place::Server, Hook::Xdp, PROTOCOL_TCP),
        ..BASE
    },
    Case {
        name: "xdp-far",
        about: "an XDP program drops UDP at the server's device; the client's doctor asks the server's",
        expected: expect(&["xdp-drop"], Layer::Xdp),
        arguments: &["--probe", "udp", "10.1.2.10:9000", "--agent", "10.1.2.10"],
        agent: Some(Place::Server),
        inject: |site| at_device(site, Place::Server, Hook::Xdp, UDP),
        ..BASE
    },
];
