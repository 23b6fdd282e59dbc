//! A redirection that fails without a word, as the kernel really does it.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::links::{Links, VethEnd};
use crate::netns::Namespace;

#[test]
fn a_socket_of_another_device_gets_nothing_and_that_is_told() {
    for mode in [Mode::Native, Mode::Generic] {
        let (Ok(left), Ok(right)) = (Namespace::create(), Namespace::create()) else {
            println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
            return;
        };
        let ends = [(&left, "left0", [10, 9, 3, 1]), (&right, "right0", [10, 9, 3, 2])];
        let [near, far] = ends.map(|(namespace, name, _)| VethEnd { namespace, name });
        Links::add_veth(near, far, 1500).unwrap();
        for (namespace, name, address) in ends {
            let links = Links::open(namespace).unwrap();
            links.bring_up(name).unwrap();
            links.add_address(name, IpAddr::from(address), 24).unwrap();
        }
        let options = Options { ports: vec![4789], mode, ..Options::default() };
        let mut receiver = right.enter(|| Receiver::open("right0", &options)).unwrap().unwrap();
        let index = left.enter(|| interface::by_name("left0").unwrap().index).unwrap();
        let target =
            Target { interface: "left0", index, is_generic: true, frames: 64, frame_size: FRAME_SIZES[0] };
        let stranger = left.enter(|| QueueSocket::open(&target, 0)).unwrap().unwrap();
        receiver.program.serve(0, stranger.as_fd()).unwrap();

        let socket = left.enter(|| UdpSocket::bind("10.9.3.1:0")).unwrap().unwrap();
        let start = Instant::now();
        // The link comes up a little later, and what is sent until then is lost.
        while receiver.program_counts().unwrap().redirected < 10 && start.elapsed() < Duration::from_secs(10)
        {
            let _ = socket.send_to(b"lost", "10.9.3.2:4789");
            thread::sleep(Duration::from_millis(1));
        }
        let counters = IoCounters::default();
        assert_eq!(receiver.check(&counters), Ok(()), "it may still be on its way");
        let redirected = receiver.program_counts().unwrap().redirected;
        assert!(redirected >= 10);
        assert_eq!(receiver.check(&counters), Err(Fault::Silent { redirected }), "{mode:?}");
        assert_eq!(receiver.check(&counters), Ok(()), "told once");
        assert_eq!((counters.received.value(), counters.received_overflow.value()), (0, 0));
    }
}
