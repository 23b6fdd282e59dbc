//! For long: a reload each second, and every packet counted.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::Plan;
use crate::course::Course;
use crate::load::Load;
use crate::rig::crafted::{self, FIELD_PORT};
use crate::rig::daemon::Daemon;
use crate::rig::listen;
use crate::rig::site::ANALYSER;

/// Runs it; fails if a packet is missing, or counted twice.
pub(crate) fn run(course: &Course, plan: &Plan) {
    let daemon = Daemon::start(&plan.program, &course.site.middle, &course.files.configuration(), &[]);
    // All but the last of each eight are allowed.
    let stranger = "192.0.2.1".parse().unwrap();
    let datagrams: Vec<_> = course.allowed[..320]
        .iter()
        .enumerate()
        .map(|(index, source)| {
            let source = if index % 8 == 7 { stranger } else { *source };
            crafted::vxlan(1, &crafted::udp(source, FIELD_PORT, &vec![7; plan.bytes]))
        })
        .collect();
    let load = Load::new(course.site.tunnel(4789), &datagrams);
    let (back, elsewhere) = (listen::frames(&course.site.source), listen::frames(&course.site.elsewhere));
    let before = course.settled();
    let (sent, reloads) = thread::scope(|scope| {
        let sender = scope.spawn(|| load.send(plan.rate, Duration::from_secs(plan.seconds)).0);
        let (start, mut reloads) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(plan.seconds) {
            thread::sleep(Duration::from_secs(1));
            daemon.signal(Signal::HUP);
            reloads += 1;
        }
        (sender.join().unwrap(), reloads)
    });
    daemon.wait_for(sent);
    let arrived = course.settled() - before;
    let counted = daemon.end();
    println!("{sent} sent in {} s with {reloads} reloads, {arrived} arrived: {counted:?}", plan.seconds);
    assert_eq!(counted.captured + counted.overflow, sent, "each is counted once");
    // Neighbours' questions may be among what arrived.
    assert!((counted.sent..counted.sent + 10).contains(&arrived), "what was sent on has arrived");
    let refused = counted.dropped("not_allowed");
    assert!(refused <= sent / 8 && refused + counted.overflow >= sent / 8, "only strangers are refused");
    for frame in back.end().iter().chain(&elsewhere.end()) {
        assert!(listen::packet_to(frame, ANALYSER.into()).is_none(), "by a wrong interface");
    }
    println!("exact");
}
