//! What both ends agreed on in the handshake, compared with kernel forwarding.

use super::{Case, Lab, Report, Scenario, Setting};
use crate::address::ETH0;
use crate::host::Host;
use crate::nic::NicMode;
use crate::program::client::Request;
use crate::program::server::Served;
use crate::program::tcp_info::TcpInfo;
use anyhow::{Context, ensure};
use rtt0_netio::links::Links;
use rtt0_netio::sysctl;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "handshake-parity",
    about: "TCP_INFO at both ends (MSS, window scales, SACK, timestamps, ECN) as under kernel forwarding",
    run,
};

/// Round-trip time of the path.
const RTT: Duration = Duration::from_millis(30);
/// Ports of the variants: each has its own, hence a profile of its own.
const FIRST_PORT: u16 = 9000;

/// A kernel parameter that a variant changes.
#[derive(Debug)]
struct Parameter {
    name: &'static str,
    value: &'static str,
    /// What it is in all other variants.
    usual: &'static str,
}

/// A way the endpoints are set up.
#[derive(Debug)]
struct Variant {
    name: &'static str,
    /// Kernel parameters of client and server.
    client: &'static [Parameter],
    server: &'static [Parameter],
    /// Whether the client is set up so only after the daemons have learned of the server.
    client_later: bool,
    /// MTU of the server's device in bytes.
    server_mtu: u32,
    /// What makes the variant one.
    shows: fn(&Agreed) -> bool,
}

const PLAIN: Variant = Variant {
    name: "defaults",
    client: &[],
    server: &[],
    client_later: false,
    server_mtu: 1500,
    shows: |agreed| agreed.timestamps && agreed.sack && agreed.window_scaling && !agreed.ecn,
};

const TIMESTAMPS: &[Parameter] = &[Parameter { name: "net.ipv4.tcp_timestamps", value: "0", usual: "1" }];
const SACK: &[Parameter] = &[Parameter { name: "net.ipv4.tcp_sack", value: "0", usual: "1" }];
const SCALING: &[Parameter] = &[Parameter { name: "net.ipv4.tcp_window_scaling", value: "0", usual: "1" }];
const ECN: &[Parameter] = &[Parameter { name: "net.ipv4.tcp_ecn", value: "1", usual: "2" }];
/// A small receive buffer has the kernel choose a smaller scale.
const SMALL: &[Parameter] =
    &[Parameter { name: "net.ipv4.tcp_rmem", value: "4096 131072 262144", usual: "4096 131072 67108864" }];

const VARIANTS: &[Variant] = &[
    PLAIN,
    Variant { name: "server without timestamps", server: TIMESTAMPS, shows: |a| !a.timestamps, ..PLAIN },
    Variant { name: "client without timestamps", client: TIMESTAMPS, shows: |a| !a.timestamps, ..PLAIN },
    Variant {
        name: "client without timestamps, learned with",
        client: TIMESTAMPS,
        client_later: true,
        shows: |a| !a.timestamps,
        ..PLAIN
    },
    Variant { name: "server without SACK", server: SACK, shows: |a| !a.sack, ..PLAIN },
    Variant { name: "client without SACK", client: SACK, client_later: true, shows: |a| !a.sack, ..PLAIN },
    Variant { name: "server without scaling", server: SCALING, shows: |a| !a.window_scaling, ..PLAIN },
    Variant {
        name: "client without scaling",
        client: SCALING,
        client_later: true,
        shows: |a| !a.window_scaling,
        ..PLAIN
    },
    Variant { name: "client with ECN", client: ECN, shows: |a| a.ecn, ..PLAIN },
    Variant { name: "server with small buffers", server: SMALL, shows: |a| a.snd_wscale < 8, ..PLAIN },
    Variant { name: "server's MTU 1400", server_mtu: 1400, shows: |a| a.snd_mss <= 1348, ..PLAIN },
];

/// What an end agreed to, as its kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Agreed {
    snd_mss: u32,
    advmss: u32,
    snd_wscale: u8,
    rcv_wscale: u8,
    window_scaling: bool,
    sack: bool,
    timestamps: bool,
    ecn: bool,
}

impl From<TcpInfo> for Agreed {
    fn from(tcp: TcpInfo) -> Self {
        Self {
            snd_mss: tcp.snd_mss,
            advmss: tcp.advmss,
            snd_wscale: tcp.snd_wscale,
            rcv_wscale: tcp.rcv_wscale,
            window_scaling: tcp.window_scaling(),
            sack: tcp.sack(),
            timestamps: tcp.timestamps(),
            ecn: tcp.ecn(),
        }
    }
}

/// Client's and server's view.
type Ends = (Agreed, Agreed);

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::IPS {
        let (kernel, paired) = thread::scope(|scope| {
            let kernel = scope.spawn(|| observe(case, None));
            let paired = observe(case, Some(NicMode::Paired));
            (kernel.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), paired)
        });
        let kernel = kernel.with_context(|| format!("{case}: under kernel forwarding"))?;
        let paired = paired.with_context(|| format!("{case}: with both daemons"))?;
        for ((variant, expected), seen) in VARIANTS.iter().zip(&kernel).zip(&paired) {
            let name = variant.name;
            ensure!((variant.shows)(&expected.0), "{case}: {name}: had no effect: {:?}", expected.0);
            report.equal(format!("{case}: {name}: client"), &expected.0, &seen.0)?;
            report.equal(format!("{case}: {name}: server"), &expected.1, &seen.1)?;
        }
        report.note(format!("{case}: {} set-ups, same TCP_INFO at both ends", paired.len()));
    }
    Ok(())
}

/// Sets the endpoints up in every way and returns what they agree on.
fn observe(case: Case, nics: Option<NicMode>) -> anyhow::Result<Vec<Ends>> {
    let mut lab = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, nics) })?;
    let ends = (FIRST_PORT..)
        .zip(VARIANTS)
        .map(|(port, variant)| agree(&lab, port, variant).with_context(|| variant.name))
        .collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(nics) = lab.take_nics() {
        let (client, _) = nics.stop()?;
        let (spoofed, expected) = (client.of("event.spoofed_paired"), VARIANTS.len() as u64);
        ensure!(spoofed == expected, "{spoofed} of {expected} connections were 0-RTT");
    }
    Ok(ends)
}

fn agree(lab: &Lab, port: u16, variant: &Variant) -> anyhow::Result<Ends> {
    let (client, server) = (&lab.topology().client, &lab.topology().server);
    set_mtu(server, variant.server_mtu)?;
    apply(server, variant.server)?;
    let ends = talk(lab, port, variant);
    restore(client, variant.client)?;
    restore(server, variant.server)?;
    set_mtu(server, PLAIN.server_mtu)?;
    ends
}

/// Makes one connection to be learned from and one to be looked at.
fn talk(lab: &Lab, port: u16, variant: &Variant) -> anyhow::Result<Ends> {
    let client = &lab.topology().client;
    let (send, served) = mpsc::channel::<Served>();
    let send = Mutex::new(send);
    let tell = move |served| {
        if let Ok(send) = send.lock() {
            let _ = send.send(served);
        }
    };
    let _server = lab.serve(port, Some(Arc::new(tell)))?;
    let request = Request { server: SocketAddr::new(lab.server_address(), port), ..lab.request() };
    if !variant.client_later {
        apply(client, variant.client)?;
    }
    lab.fetch(&request)?;
    apply(client, variant.client)?;
    let exchange = lab.fetch(&request)?;
    let view = || served.recv_timeout(Duration::from_secs(5)).context("the server finished no connection");
    view()?;
    Ok((exchange.tcp.into(), view()?.tcp.into()))
}

fn apply(host: &Host, parameters: &[Parameter]) -> anyhow::Result<()> {
    let wanted: Vec<_> = parameters.iter().map(|p| (p.name, p.value)).collect();
    Ok(sysctl::set(host.namespace(), &wanted)?)
}

fn restore(host: &Host, parameters: &[Parameter]) -> anyhow::Result<()> {
    let usual: Vec<_> = parameters.iter().map(|p| (p.name, p.usual)).collect();
    Ok(sysctl::set(host.namespace(), &usual)?)
}

fn set_mtu(host: &Host, mtu: u32) -> anyhow::Result<()> {
    Ok(Links::open(host.namespace())?.set_mtu_and_queue(ETH0, mtu, 1000)?)
}
