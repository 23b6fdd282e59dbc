//! A socket for each receive queue.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use rtt0_netio::counters::IoCounters;
use rtt0_netio::xdp::{Fault, Mode, Options, XdpError};

use super::rig::{eventually, namespaces};
use super::{LEFT, RIGHT, VXLAN, open, options, pair_of_queues, payload, receive, udp};

#[test]
fn every_queue_has_a_socket() {
    for mode in [Mode::Native, Mode::Generic] {
        let Some([left, right]) = namespaces() else { return };
        pair_of_queues(&left, &right, 3);
        let mut receiver = open(&right, &options(mode)).unwrap();
        assert!(
            receiver
                .describe()
                .contains("queues 0,1,2, each with 2048 frames of 2048 bytes, 12288 KiB in all"),
            "{}",
            receiver.describe()
        );
        assert_eq!(receiver.fds().count(), 3);
        let counters = IoCounters::default();
        // The kernel chooses a queue by the flow.
        let clients: Vec<_> = (0..32).map(|_| udp(&left, LEFT)).collect();
        for number in 0..640 {
            clients[number as usize % 32].send_to(&payload(number), (IpAddr::from(RIGHT), VXLAN)).unwrap();
        }
        let mut numbers: Vec<u32> = receive(&mut receiver, 640, &counters)
            .iter()
            .map(|packet| u32::from_be_bytes(packet[28..32].try_into().unwrap()))
            .collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..640));
        assert_eq!(receiver.program_counts().unwrap().unserved, 0);
        drop(receiver);

        // With one queue only, what comes by the others is the kernel's, and is told.
        let server = right.enter(|| UdpSocket::bind((IpAddr::from(RIGHT), VXLAN))).unwrap().unwrap();
        let mut receiver = open(&right, &Options { queues: Some(vec![1]), ..options(mode) }).unwrap();
        for (number, client) in (0..).zip(&clients) {
            client.send_to(&payload(number), (IpAddr::from(RIGHT), VXLAN)).unwrap();
        }
        let counts = eventually("all must be counted", || {
            let counts = receiver.program_counts().unwrap();
            (counts.redirected + counts.unserved == 32).then_some(counts)
        });
        assert!(counts.redirected > 0 && counts.unserved > 0, "{counts:?}");
        assert_eq!(
            receive(&mut receiver, counts.redirected as usize, &counters).len() as u64,
            counts.redirected
        );
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for _ in 0..counts.unserved {
            assert_eq!(server.recv(&mut [0; 200]).unwrap(), 122);
        }
        assert_eq!(receiver.check(&counters), Err(Fault::Unserved { packets: counts.unserved }));
        drop(receiver);
        let error = open(&right, &Options { queues: Some(vec![3]), ..options(mode) }).unwrap_err();
        assert!(matches!(error, XdpError::Queue { queue: 3, present: 3, .. }), "{error}");
    }
}
