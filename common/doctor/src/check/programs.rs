//! BPF programs and filters of traffic control: which of them has dropped.

use rtt0_netio::attached::Attachment;

use crate::causes;
use crate::finding::{Cause, Finding, Layer, Rank};
use crate::look::interval::Interval;
use crate::look::programs::{OnInterface, Programs};
use crate::report::Report;

/// Judges what programs and filters have done meanwhile, by the kernel's drop reasons and by their own counts.
pub fn judge(interval: &Interval, report: &mut Report) {
    let programs = &interval.after.programs;
    for (what, why) in &programs.unseen {
        report.cannot_see(what, why);
    }
    report.cannot_see(
        "filters that programs have put on their own sockets",
        "the kernel lists them only to the diagnosis of packet sockets (ss -0 -b); their drops have a reason of their own",
    );
    counted(interval, report);
    let Ok(drops) = &interval.drops else { return };
    for dropped in drops {
        let (cause, layer) = match dropped.reason.as_str() {
            "TC_EGRESS" => (&causes::TC_DROP, Layer::TcEgress),
            "TC_INGRESS" => (&causes::TC_DROP, Layer::TcIngress),
            "XDP" => (&causes::XDP_DROP, Layer::Xdp),
            "BPF_CGROUP_EGRESS" => {
                of_cgroup(programs, &[Attachment::CgroupEgress], dropped.packets, report);
                continue;
            }
            // A control group's ingress programs are run where a socket's own filter is.
            "SOCKET_FILTER" => {
                of_cgroup(programs, &[Attachment::CgroupIngress], dropped.packets, report);
                continue;
            }
            _ => continue,
        };
        let on = programs.interfaces.iter().find(|on| on.index == dropped.interface);
        if let Some(finding) = on.and_then(|on| accused(on, cause, layer, dropped.packets)) {
            report.find(finding.because(format!(
                "the kernel dropped {} packets with the reason {}",
                dropped.packets, dropped.reason
            )));
        }
    }
}

fn of_cgroup(programs: &Programs, how: &[Attachment], packets: u64, report: &mut Report) {
    if let Some(finding) = accused_cgroup(programs, how, packets) {
        report.find(finding);
    }
}

/// Makes the finding that what is attached to an interface at `layer` drops; `None` if nothing of others' is.
pub fn accused(on: &OnInterface, cause: &'static Cause, layer: Layer, packets: u64) -> Option<Finding> {
    let suspects = on.suspects(layer);
    let (_, removal) = suspects.first()?.clone();
    let finding = Finding::new(cause, layer, Rank::Loss).of(&on.name).losing(packets);
    let finding = suspects.iter().take(8).fold(finding, |finding, (words, _)| finding.because(words));
    Some(finding.seen_by(command(layer, &on.name)).mended_by(removal))
}

/// Returns the command that lists what is attached at `layer`.
pub fn command(layer: Layer, interface: &str) -> String {
    match layer {
        Layer::Xdp => format!("ip -d link show dev {interface}; bpftool net show dev {interface}"),
        Layer::Qdisc => format!("tc -s qdisc show dev {interface}"),
        Layer::TcIngress => {
            format!("bpftool net show dev {interface}; tc -s filter show dev {interface} ingress")
        }
        _ => format!("bpftool net show dev {interface}; tc -s filter show dev {interface} egress"),
    }
}

/// Makes the finding that a control group's program drops; `None` if none is attached in one of these ways.
pub fn accused_cgroup(programs: &Programs, how: &[Attachment], packets: u64) -> Option<Finding> {
    let first = programs.of_cgroups(how).next()?;
    let finding = Finding::new(&causes::CGROUP_DROP, Layer::Cgroup, Rank::Loss).losing(packets);
    let finding = programs.of_cgroups(how).take(8).fold(finding, |finding, on| finding.because(on.title()));
    let finding = finding.seen_by(format!("bpftool cgroup show {} effective", first.path));
    Some(finding.mended_by(first.removal()))
}

/// Finds filters whose counts have grown: these can tell even where the kernel gives no reasons.
fn counted(interval: &Interval, report: &mut Report) {
    for on in &interval.after.programs.interfaces {
        let Some(earlier) = interval.before.programs.on(&on.name) else { continue };
        let by_actions = [false, true]
            .map(|is_egress| filter_drops(on, is_egress).saturating_sub(filter_drops(earlier, is_egress)));
        // The clsact qdisc counts what filters drop in both directions, by themselves and by their actions.
        let all = hook_drops(on).saturating_sub(hook_drops(earlier));
        let by_programs = all.saturating_sub(by_actions.iter().sum());
        let layers = [Layer::TcIngress, Layer::TcEgress];
        let program = layers.into_iter().find(|layer| has_program(on, *layer));
        for (layer, by_actions) in layers.into_iter().zip(by_actions) {
            let packets = by_actions + if program == Some(layer) { by_programs } else { 0 };
            if packets > 0
                && let Some(finding) = accused(on, &causes::TC_DROP, layer, packets)
            {
                report
                    .find(finding.because(format!(
                        "by their own counts, filters dropped {packets} packets meanwhile"
                    )));
            }
        }
    }
}

/// Tells whether a filter there has a program of others.
fn has_program(on: &OnInterface, layer: Layer) -> bool {
    on.filters.iter().any(|(filter, program)| {
        filter.is_egress == (layer == Layer::TcEgress)
            && program.as_ref().is_some_and(|program| !program.is_own())
    })
}

/// Returns how many packets the filters of an interface's clsact or ingress qdisc have dropped in its life.
pub fn hook_drops(on: &OnInterface) -> u64 {
    let hooks = on.queues.iter().filter(|queue| matches!(queue.kind.as_str(), "clsact" | "ingress"));
    hooks.map(|queue| u64::from(queue.drops)).sum()
}

/// Returns how many packets the filters of an interface have dropped in their lives, as far as their actions count.
pub fn filter_drops(on: &OnInterface, is_egress: bool) -> u64 {
    let filters = on.filters.iter().filter(|(filter, _)| filter.is_egress == is_egress);
    filters.flat_map(|(filter, _)| &filter.actions).map(|action| action.drops).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rtt0_netio::attached::{Filter, FilterAction};

    use super::*;
    use crate::look::counters::Counters;
    use crate::look::drops::Dropped;
    use crate::look::programs::{OnCgroup, Program};

    fn program(name: &str) -> Program {
        Program { id: 7, name: name.to_owned() }
    }

    fn judged(before: Programs, after: Programs, reason: &str) -> Vec<(&'static str, Layer, String, u64)> {
        let counters = |programs| Counters { programs, ..Counters::default() };
        let dropped = Dropped { reason: reason.to_owned(), interface: 2, packets: 5, ..Dropped::default() };
        let interval = Interval {
            before: counters(before),
            after: counters(after),
            elapsed: Duration::from_secs(1),
            drops: Ok(vec![dropped]),
        };
        let mut report = Report::default();
        judge(&interval, &mut report);
        let findings = report.findings().iter();
        findings.map(|found| (found.cause.id, found.layer, found.subject.clone(), found.lost)).collect()
    }

    fn interface() -> OnInterface {
        OnInterface { name: "eth0".to_owned(), index: 2, ..OnInterface::default() }
    }

    #[test]
    fn the_kernels_reason_leads_to_the_program() {
        let on =
            OnInterface { tcx_egress: vec![program("evil")], xdp: vec![program("filter")], ..interface() };
        let all = || Programs { interfaces: vec![on.clone()], ..Programs::default() };
        let eth0 = || "eth0".to_owned();
        assert_eq!(judged(all(), all(), "TC_EGRESS"), [("tc-drop", Layer::TcEgress, eth0(), 5)]);
        assert_eq!(judged(all(), all(), "XDP"), [("xdp-drop", Layer::Xdp, eth0(), 5)]);
        assert!(judged(all(), all(), "TC_INGRESS").is_empty());
    }

    #[test]
    fn our_own_program_is_no_suspect() {
        let on = OnInterface { tcx_ingress: vec![program("forward")], ..interface() };
        let all = || Programs { interfaces: vec![on.clone()], ..Programs::default() };
        assert!(judged(all(), all(), "TC_INGRESS").is_empty());
    }

    #[test]
    fn control_groups_have_no_subject() {
        let on =
            |attachment| OnCgroup { path: "/sys/fs/cgroup".to_owned(), attachment, program: program("evil") };
        let all = || Programs { cgroups: vec![on(Attachment::CgroupEgress)], ..Programs::default() };
        let found = [("cgroup-drop", Layer::Cgroup, String::new(), 5)];
        assert_eq!(judged(all(), all(), "BPF_CGROUP_EGRESS"), found);
        assert!(judged(all(), all(), "SOCKET_FILTER").is_empty());
    }

    #[test]
    fn filters_count_for_themselves() {
        let with = |drops| {
            let action = FilterAction { kind: "gact".to_owned(), always_drops: true, packets: drops, drops };
            let filter = Filter {
                is_egress: true,
                kind: "u32".to_owned(),
                priority: 1,
                program: None,
                actions: vec![action],
            };
            let on = OnInterface { filters: vec![(filter, None)], ..interface() };
            Programs { interfaces: vec![on], ..Programs::default() }
        };
        assert_eq!(judged(with(3), with(9), ""), [("tc-drop", Layer::TcEgress, "eth0".to_owned(), 6)]);
        assert!(judged(with(3), with(3), "").is_empty());
    }
}
