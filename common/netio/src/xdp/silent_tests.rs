//! A redirection that fails without a word, as the kernel really does it.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::socket::Target;
use super::*;
use crate::interface;
use crate::links::{Links, VethEnd};
use crate::netns::Namespace;

fn pair(queues: u32) -> Option<[Namespace; 2]> {
    let (Ok(left), Ok(right)) = (Namespace::create(), Namespace::create()) else {
        println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
        return None;
    };
    let ends = [(&left, "left0", [10, 9, 3, 1]), (&right, "right0", [10, 9, 3, 2])];
    let [near, far] = ends.map(|(namespace, name, _)| VethEnd { namespace, name });
    Links::add_veth_of_queues(near, far, 1500, queues).unwrap();
    for (namespace, name, address) in ends {
        let links = Links::open(namespace).unwrap();
        links.bring_up(name).unwrap();
        links.add_address(name, IpAddr::from(address), 24).unwrap();
    }
    Some([left, right])
}

/// Opens receivers, and puts a socket of another device in the place of that of the last queue.
fn spoiled(
    left: &Namespace,
    right: &Namespace,
    mode: Mode,
    receivers: usize,
) -> (Vec<Receiver>, QueueSocket) {
    let options = Options { ports: vec![4789], mode, ..Options::default() };
    let open = || Group::open("right0", &options, receivers);
    let (mut group, shares) = right.enter(open).unwrap().unwrap();
    let index = left.enter(|| interface::by_name("left0").unwrap().index).unwrap();
    let target =
        Target { interface: "left0", index, is_generic: true, frames: 64, frame_size: FRAME_SIZES[0] };
    let stranger = left.enter(|| QueueSocket::open(&target, 0)).unwrap().unwrap();
    let last = shares.iter().flatten().map(|socket| socket.queue).max().unwrap();
    Arc::get_mut(&mut group).unwrap().program.serve(last, stranger.as_fd()).unwrap();
    let receiver = |sockets| Receiver::new(Arc::clone(&group), sockets, "right0");
    (shares.into_iter().map(receiver).collect(), stranger)
}

/// Sends from many ports until the program has handed over so many packets of a queue.
fn send(left: &Namespace, receiver: &Receiver, queue: u32, count: u64) {
    let bind = |_| UdpSocket::bind("10.9.3.1:0").unwrap();
    let sockets: Vec<_> = left.enter(|| (0..16).map(bind).collect()).unwrap();
    let start = Instant::now();
    // The link comes up a little later, and what is sent until then is lost.
    while receiver.group.program.redirected(queue).unwrap() < count
        && start.elapsed() < Duration::from_secs(10)
    {
        for socket in &sockets {
            let _ = socket.send_to(b"lost", "10.9.3.2:4789");
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert!(receiver.group.program.redirected(queue).unwrap() >= count);
}

#[test]
fn a_socket_of_another_device_gets_nothing_and_that_is_told() {
    for mode in [Mode::Native, Mode::Generic] {
        let Some([left, right]) = pair(1) else { return };
        let (mut receivers, _stranger) = spoiled(&left, &right, mode, 1);
        let receiver = &mut receivers[0];
        send(&left, receiver, 0, 10);
        let counters = IoCounters::default();
        assert_eq!(receiver.check(&counters), Ok(()), "it may still be on its way");
        let redirected = receiver.program_counts().unwrap().redirected;
        assert_eq!(receiver.check(&counters), Err(Fault::Silent { redirected }), "{mode:?}");
        assert_eq!(receiver.check(&counters), Ok(()), "told once");
        assert_eq!((counters.received.value(), counters.received_overflow.value()), (0, 0));
    }
}

#[test]
fn of_several_receivers_the_one_that_gets_nothing_tells_it() {
    let Some([left, right]) = pair(2) else { return };
    let (mut receivers, _stranger) = spoiled(&left, &right, Mode::Native, 2);
    send(&left, &receivers[0], 1, 10);
    let counters = IoCounters::default();
    let redirected = receivers[1].group.program.redirected(1).unwrap();
    let mut check = || receivers.iter_mut().map(|receiver| receiver.check(&counters)).collect::<Vec<_>>();
    assert_eq!(check(), [Ok(()), Ok(())], "it may still be on its way");
    // What the other has got makes up for nothing.
    assert_eq!(check(), [Ok(()), Err(Fault::Silent { redirected })]);
    assert_eq!(check(), [Ok(()), Ok(())]);
    let all = receivers[0].program_counts().unwrap().redirected;
    assert!(all > redirected, "the other has got some");
}
