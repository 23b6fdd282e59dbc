//! BPF programs and filters of traffic control in the way of packets.

use std::fs::{self, File};
use std::io;

use rtt0_netio::attached::{self, Attachment, Filter, Queue};
use rtt0_netio::interface;
use rtt0_netio::links::Links;

use super::counters::queues;
use crate::finding::Layer;

/// The middlebox' own program, which takes established flows (see `rtt0_netio::fast_path`).
const OWN: &str = "forward";
/// Control groups above this process's that are looked at, at most.
const DEEPEST: usize = 32;

/// What is attached.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// To interfaces.
    pub interfaces: Vec<OnInterface>,
    /// To the control group of this process, and to those that it is in.
    pub cgroups: Vec<OnCgroup>,
    /// What could not be looked at, and why.
    pub unseen: Vec<(String, String)>,
}

/// A BPF program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its number.
    pub id: u32,
    /// Its name; empty if it has none, or if that can't be seen.
    pub name: String,
}

impl Program {
    fn of(id: u32) -> Self {
        // Needs more than to list it: CAP_SYS_ADMIN. The number tells enough.
        Self { id, name: attached::program_name(id).unwrap_or_default() }
    }

    /// Tells whether it is the middlebox' own.
    pub fn is_own(&self) -> bool {
        self.name == OWN
    }

    /// Returns its name and number.
    pub fn title(&self) -> String {
        let name = if self.name.is_empty() { "without a name" } else { &self.name };
        format!("program {name} (id {})", self.id)
    }
}

/// What is attached to an interface.
#[derive(Debug, Clone, Default)]
pub struct OnInterface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// XDP programs.
    pub xdp: Vec<Program>,
    /// tcx programs where packets arrive.
    pub tcx_ingress: Vec<Program>,
    /// tcx programs where packets leave.
    pub tcx_egress: Vec<Program>,
    /// Filters of traffic control, each with its program if it has one.
    pub filters: Vec<(Filter, Option<Program>)>,
    /// Queueing disciplines.
    pub queues: Vec<Queue>,
}

impl OnInterface {
    /// Says what at `layer` may drop, a line each, with how to take it away.
    pub fn suspects(&self, layer: Layer) -> Vec<(String, String)> {
        let name = &self.name;
        let tcx = |programs: &[Program], side: &str| -> Vec<(String, String)> {
            let others = programs.iter().filter(|program| !program.is_own());
            let words = |program: &Program| {
                let find = format!("bpftool link list | grep -A1 'prog {}'", program.id);
                (
                    format!("tcx {side} of {name}: {}", program.title()),
                    format!(
                        "end the process that holds its link, or detach that: {find}, bpftool link detach id ID"
                    ),
                )
            };
            others.map(words).collect()
        };
        match layer {
            Layer::Xdp => {
                let words = |program: &Program| {
                    (format!("XDP of {name}: {}", program.title()), format!("ip link set dev {name} xdp off"))
                };
                self.xdp.iter().filter(|program| !program.is_own()).map(words).collect()
            }
            Layer::TcIngress => {
                let mut all = tcx(&self.tcx_ingress, "ingress");
                all.extend(self.filters_in_words(false));
                all
            }
            Layer::TcEgress => {
                let mut all = tcx(&self.tcx_egress, "egress");
                all.extend(self.filters_in_words(true));
                all
            }
            Layer::Qdisc => {
                let queues =
                    self.queues.iter().filter(|queue| queue.kind != "noqueue" && queue.kind != "clsact");
                let words = |queue: &Queue| {
                    let title = format!(
                        "qdisc {} of {name}: {} packets dropped in its life, {} waiting",
                        queue.kind, queue.drops, queue.length
                    );
                    (
                        title,
                        format!("tc qdisc replace dev {name} root fq_codel, or give it more room and rate"),
                    )
                };
                queues.map(words).collect()
            }
            _ => Vec::new(),
        }
    }

    fn filters_in_words(&self, is_egress: bool) -> impl Iterator<Item = (String, String)> {
        let name = &self.name;
        let side = if is_egress { "egress" } else { "ingress" };
        let may_drop = |(filter, program): &&(Filter, Option<Program>)| {
            let own = program.as_ref().is_some_and(Program::is_own);
            !own && (program.is_some() || filter.actions.iter().any(may_drop))
        };
        self.filters.iter().filter(move |(filter, _)| filter.is_egress == is_egress).filter(may_drop).map(
            move |(filter, program)| {
                let program =
                    program.as_ref().map_or_else(String::new, |program| format!(", {}", program.title()));
                let actions: Vec<_> = filter.actions.iter().map(|action| action.kind.as_str()).collect();
                let actions = if actions.is_empty() {
                    String::new()
                } else {
                    format!(", action {}", actions.join(" "))
                };
                (
                    format!(
                        "tc filter {} of {name} {side}, pref {}{program}{actions}",
                        filter.kind, filter.priority
                    ),
                    format!("tc filter del dev {name} {side} pref {}", filter.priority),
                )
            },
        )
    }
}

/// Tells whether an action may drop: those that only change or redirect don't.
fn may_drop(action: &attached::FilterAction) -> bool {
    action.always_drops || action.drops > 0 || matches!(action.kind.as_str(), "police" | "bpf" | "ct")
}

/// A program of a control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnCgroup {
    /// The group's folder.
    pub path: String,
    /// How it is attached.
    pub attachment: Attachment,
    /// Which.
    pub program: Program,
}

impl OnCgroup {
    /// Says what it is.
    pub fn title(&self) -> String {
        format!("{} of {}: {}", self.attachment.name(), self.path, self.program.title())
    }

    /// Says how to take it away.
    pub fn removal(&self) -> String {
        format!(
            "bpftool cgroup detach {} {} id {} (or end its owner, if a link holds it)",
            self.path,
            self.attachment.name(),
            self.program.id
        )
    }
}

impl Programs {
    /// Reads what is attached to these interfaces and to the control groups of this process.
    pub fn read(interfaces: &[String]) -> Self {
        Self::among(interfaces, queues::read().as_deref())
    }

    /// The same, given the queueing disciplines of all interfaces, or why those can't be seen.
    pub fn among(interfaces: &[String], queues: Result<&[Queue], &String>) -> Self {
        let mut programs = Self::default();
        let queues = queues.unwrap_or_else(|why| {
            programs.unseen.push(("queueing disciplines".to_owned(), why.clone()));
            &[]
        });
        let links = Links::here();
        for name in interfaces {
            let Ok(interface) = interface::by_name(name) else { continue };
            let queues: Vec<_> =
                queues.iter().filter(|queue| queue.interface == interface.index).cloned().collect();
            let mut on = OnInterface { name: name.clone(), index: interface.index, ..OnInterface::default() };
            match &links {
                Ok(links) => match links.xdp_programs(name) {
                    Ok(ids) => on.xdp = ids.into_iter().map(Program::of).collect(),
                    Err(error) => programs.unsee(&format!("XDP programs of {name}"), &error),
                },
                Err(error) => programs.unsee("XDP programs", error),
            }
            on.tcx_ingress = programs.tcx(interface.index, false);
            on.tcx_egress = programs.tcx(interface.index, true);
            match attached::filters(interface.index, &queues) {
                Ok(filters) => {
                    let with_program = |filter: Filter| (filter.program.map(Program::of), filter);
                    on.filters = filters
                        .into_iter()
                        .map(with_program)
                        .map(|(program, filter)| (filter, program))
                        .collect();
                }
                Err(error) => programs.unsee(&format!("tc filters of {name}"), &error),
            }
            on.queues = queues;
            programs.interfaces.push(on);
        }
        programs.read_cgroups();
        programs
    }

    fn unsee(&mut self, what: &str, why: &dyn std::fmt::Display) {
        if !self.unseen.iter().any(|(other, _)| other == what) {
            self.unseen.push((what.to_owned(), why.to_string()));
        }
    }

    fn tcx(&mut self, index: u32, is_egress: bool) -> Vec<Program> {
        match attached::tcx_programs(index, is_egress) {
            Ok(ids) => ids.into_iter().map(Program::of).collect(),
            // Before Linux 6.6 there are none.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Vec::new(),
            Err(error) => {
                self.unsee("tcx programs", &format!("{error}; needs CAP_NET_ADMIN"));
                Vec::new()
            }
        }
    }

    fn read_cgroups(&mut self) {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let folders = cgroup_folders(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        if folders.is_empty() {
            self.unsee("programs of control groups", &"no cgroup v2 file system is mounted here");
        }
        for path in folders {
            let folder = match File::open(&path) {
                Ok(folder) => folder,
                Err(error) => {
                    self.unsee("programs of control groups", &format!("{path}: {error}"));
                    continue;
                }
            };
            for attachment in Attachment::CGROUP {
                match attached::cgroup_programs(&folder, attachment) {
                    Ok(ids) => self.cgroups.extend(ids.into_iter().map(|id| OnCgroup {
                        path: path.clone(),
                        attachment,
                        program: Program::of(id),
                    })),
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                    Err(error) => {
                        self.unsee("programs of control groups", &format!("{error}; needs CAP_NET_ADMIN"));
                    }
                }
            }
        }
    }

    /// Returns the interface of this name.
    pub fn on(&self, interface: &str) -> Option<&OnInterface> {
        self.interfaces.iter().find(|on| on.name == interface)
    }

    /// Returns those of control groups that are attached in one of these ways.
    pub fn of_cgroups<'a>(&'a self, how: &'a [Attachment]) -> impl Iterator<Item = &'a OnCgroup> {
        self.cgroups.iter().filter(|on| how.contains(&on.attachment))
    }
}

/// Returns the folders of the control group of a process and of those that it is in, the innermost first, given its
/// `/proc/PID/cgroup` and `/proc/PID/mountinfo`; none if no cgroup v2 file system is mounted.
pub fn cgroup_folders(cgroup: &str, mounts: &str) -> Vec<String> {
    let Some(own) = cgroup.lines().find_map(|line| line.strip_prefix("0::")) else { return Vec::new() };
    let mount = mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        kind.starts_with("cgroup2 ").then(|| Some((fields.next()?, fields.next()?)))?
    });
    let Some((root, mount_point)) = mount else { return Vec::new() };
    // A group outside of what is mounted (`/..`) can't be reached; the mount's own root can.
    let own = own.trim_end_matches('/');
    let inside = if root == "/" { own } else { own.strip_prefix(root).unwrap_or("") };
    let inside = if inside.contains("..") { "" } else { inside };
    let mut folders = Vec::new();
    let mut rest = inside;
    while !rest.is_empty() && folders.len() < DEEPEST {
        folders.push(format!("{mount_point}{rest}"));
        rest = rest.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    folders.push(mount_point.to_owned());
    folders
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn folders_lie_in_what_is_mounted(group in "[a-z/.]{0,40}", root in "/[a-z/.]{0,10}") {
            let mounts = format!("1 2 0:3 {root} /mnt rw - cgroup2 none rw\n");
            let folders = cgroup_folders(&format!("0::{group}\n"), &mounts);
            prop_assert!(folders.iter().all(|folder| folder.starts_with("/mnt") && !folder.contains("..")));
            prop_assert_eq!(folders.last().map(String::as_str), Some("/mnt"));
        }
    }

    const MOUNTS: &str = "25 1 0:23 / /sys rw - sysfs sysfs rw\n\
        31 25 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn groups_are_found_up_to_the_root() {
        let folders = cgroup_folders("1:name=x:/y\n0::/system.slice/ssh.service\n", MOUNTS);
        assert_eq!(
            folders,
            ["/sys/fs/cgroup/system.slice/ssh.service", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"]
        );
        assert_eq!(cgroup_folders("0::/\n", MOUNTS), ["/sys/fs/cgroup"]);
        assert_eq!(cgroup_folders("0::/../other\n", MOUNTS), ["/sys/fs/cgroup"]);
    }

    #[test]
    fn without_a_mount_there_are_none() {
        assert!(cgroup_folders("0::/a\n", "25 1 0:23 / /sys rw - sysfs sysfs rw\n").is_empty());
        assert!(cgroup_folders("3:cpu:/a\n", MOUNTS).is_empty());
        assert!(cgroup_folders("", "\n - cgroup2 \n").is_empty());
    }

    #[test]
    fn a_part_of_the_tree_may_be_mounted() {
        let mounts = "31 25 0:27 /docker/a /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup_folders("0::/docker/a/b\n", mounts), ["/sys/fs/cgroup/b", "/sys/fs/cgroup"]);
        assert_eq!(cgroup_folders("0::/elsewhere\n", mounts), ["/sys/fs/cgroup"]);
    }
}
