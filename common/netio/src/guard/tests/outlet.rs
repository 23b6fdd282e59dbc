//! What the kernel's program copies to the daemon, against `claims`: what the guard drops must be among it.

use super::*;
use crate::capture::{Capture, CaptureOptions};
use crate::counters::IoCounters;
use crate::fast_path::{Attach, KernelOffload, OffloadOptions};

/// Sends `count` random packets and looks for each of them at the outlet.
fn compare(seed: u64, count: usize, bypass: Bypass) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: BPF needs root");
        return;
    }
    let Some(namespace) = veth() else { return };
    let services = services(packets::RULES);
    let mut random = Random(seed);
    let links = Links::open(&namespace).unwrap();
    let (mut claimed, mut spared, mut more) = (0, 0, 0);
    namespace
        .enter(|| {
            let kernel = KernelOffload::start(&OffloadOptions {
                interfaces: &["far".to_owned()],
                services: &services,
                largest: 1500,
                flows: 10,
                pins: None,
                attach: Attach::Auto,
                outlet: None,
                handshakes: None,
            })
            .unwrap();
            kernel.switch().leave_out(bypass).unwrap();
            let options = CaptureOptions { sent: true, ..CaptureOptions::default() };
            let mut capture = Capture::open(kernel.outlet(), &services, &options).unwrap();
            let mut bench = Bench::new(&links);
            for _ in 0..count / 64 {
                let mut batch = HashMap::new();
                for _ in 0..64 {
                    let mut packet = random.packet();
                    batch.insert(bench.send(bench.far, &mut packet), packet);
                }
                bench.drain();
                let mut captured = HashMap::new();
                while capture.receive(&IoCounters::default()) || capture.packet(0).is_some() {
                    for packet in capture.packets_mut() {
                        let number = u32::from_be_bytes(*packet.bytes.last_chunk().unwrap());
                        assert_eq!(captured.insert(number, packet.bytes.to_vec()), None, "copied twice");
                    }
                }
                for (number, packet) in batch {
                    let is_claimed = claims(&services, &packet).is_some();
                    let is_included = bypass.includes(&services, &packet);
                    match captured.get(&number) {
                        Some(copy) => assert_eq!(copy, &packet),
                        None if is_included => spared += 1,
                        None => assert!(!is_claimed, "seed {seed}: {packet:02x?} is lost"),
                    }
                    claimed += u64::from(is_claimed);
                    more += u64::from(!is_claimed && captured.contains_key(&number));
                }
            }
        })
        .unwrap();
    println!("{count} packets: {claimed} claimed, {spared} spared, {more} copied though not claimed");
    assert!(claimed > 1000);
    assert_eq!(spared > 20, bypass != Bypass::Nothing);
}

#[test]
fn copies_all_that_is_claimed() {
    compare(5, 20_000, Bypass::Nothing);
}

#[test]
fn copies_all_that_is_claimed_in_a_flood() {
    compare(6, 20_000, Bypass::Syns);
    compare(7, 20_000, Bypass::Handshakes);
}
