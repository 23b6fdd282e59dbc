//! What goes into a bundle.

use std::fs;
use std::io::Read;
use std::path::Path;

use super::programs;
use super::redact::Redactor;
use crate::patient::Patient;
use crate::report::Report;

/// Bytes of all files together, and of one.
const MOST: usize = 64 << 20;
const MOST_OF_ONE: usize = 4 << 20;
/// Settings: each interface has a hundred.
const MOST_SETTINGS: usize = 50_000;
const MOST_INTERFACES: usize = 64;
const MOST_LOG_LINES: usize = 1000;

/// What the doctor reads. None of these has addresses.
const FILES: &[&str] = &[
    "/proc/net/snmp",
    "/proc/net/snmp6",
    "/proc/net/netstat",
    "/proc/net/softnet_stat",
    "/proc/net/sockstat",
    "/proc/net/sockstat6",
    "/proc/net/dev",
    "/proc/net/protocols",
    "/proc/net/packet",
    "/proc/net/ptype",
    "/proc/net/stat/nf_conntrack",
    "/proc/net/stat/arp_cache",
    "/proc/net/stat/ndisc_cache",
    "/proc/net/xfrm_stat",
    "/proc/net/fib_triestat",
    "/proc/meminfo",
    "/proc/interrupts",
    "/proc/softirqs",
    "/proc/loadavg",
    "/proc/self/status",
    "/proc/self/uid_map",
    "/proc/self/cgroup",
];
/// Addresses stand there in forms that can't be told from other numbers; the programs print the same.
const FILES_WITH_ADDRESSES: &[&str] = &[
    "/proc/net/tcp",
    "/proc/net/tcp6",
    "/proc/net/udp",
    "/proc/net/udp6",
    "/proc/net/raw",
    "/proc/net/raw6",
    "/proc/net/route",
    "/proc/net/ipv6_route",
    "/proc/net/if_inet6",
];
const SETTINGS: &[&str] =
    &["/proc/sys/net", "/proc/sys/kernel/unprivileged_bpf_disabled", "/proc/sys/kernel/kptr_restrict"];
/// Parts of names of settings that are secrets.
const SECRETS: [&str; 2] = ["secret", "fastopen_key"];

/// What is printed once, and for each interface (`DEV`).
const COMMANDS: &[(&str, &str)] = &[
    ("link.txt", "ip -d -s -s link show"),
    ("address.txt", "ip address show"),
    ("route.txt", "ip -4 route show table all"),
    ("route6.txt", "ip -6 route show table all"),
    ("rule.txt", "ip -4 rule show"),
    ("rule6.txt", "ip -6 rule show"),
    ("neighbour.txt", "ip -s neighbour show"),
    ("nftables.txt", "nft -a list ruleset"),
    ("iptables.txt", "iptables-save -c"),
    ("ip6tables.txt", "ip6tables-save -c"),
    ("qdisc.txt", "tc -s -d qdisc show"),
    ("bpf-net.txt", "bpftool net show"),
    ("bpf-cgroup.txt", "bpftool cgroup tree"),
    ("sockets.txt", "ss -s"),
    ("modules.txt", "lsmod"),
    ("listeners.txt", "ss -lntum"),
];
const COMMANDS_OF_INTERFACE: &[(&str, &str)] = &[
    ("offloads.txt", "ethtool -k DEV"),
    ("driver.txt", "ethtool -i DEV"),
    ("statistics.txt", "ethtool -S DEV"),
    ("ring.txt", "ethtool -g DEV"),
    ("ingress.txt", "tc -s filter show dev DEV ingress"),
    ("egress.txt", "tc -s filter show dev DEV egress"),
];
/// Words by which the kernel's log speaks of the network.
const NETWORK_WORDS: &[&str] = &[
    "net",
    "eth",
    "link",
    "tcp",
    "udp",
    "ip:",
    "ipv",
    "nf_",
    "conntrack",
    "martian",
    "neigh",
    "xdp",
    "bpf",
    "vif",
    "ena",
    "virtio",
    "veth",
    "rtt0",
    "syn flood",
    "apparmor",
    "avc:",
    "seccomp",
    "out of memory",
];

/// Files by name, as bytes.
#[derive(Debug)]
pub(super) struct Gathered<'r> {
    files: Vec<(String, Vec<u8>)>,
    missing: String,
    left: usize,
    redactor: Option<&'r Redactor>,
}

/// Reads and runs all that there is. What can't be had is noted.
pub(super) fn everything<'r>(
    patient: &Patient,
    report: &Report,
    redactor: Option<&'r Redactor>,
) -> Gathered<'r> {
    let mut gathered = Gathered { files: Vec::new(), missing: String::new(), left: MOST, redactor };
    gathered.add("report.txt", report.text(false).as_bytes());
    gathered.add("report.json", format!("{:#}\n", report.json(patient.role)).as_bytes());
    gathered.add("about.txt", about(patient).as_bytes());
    gathered.daemon(patient);
    for path in FILES {
        gathered.read(path);
    }
    for path in FILES_WITH_ADDRESSES {
        match gathered.redactor {
            Some(_) => gathered.misses(path, "left out, as it is full of addresses"),
            None => gathered.read(path),
        }
    }
    gathered.add("sysctl.txt", settings().as_bytes());
    for (name, command) in COMMANDS {
        gathered.run(name, command);
    }
    for interface in patient.interfaces.iter().take(MOST_INTERFACES) {
        for (name, command) in COMMANDS_OF_INTERFACE {
            gathered
                .run(&format!("interface/{}/{name}", plain(interface)), &command.replace("DEV", interface));
        }
    }
    gathered.log();
    let missing = std::mem::take(&mut gathered.missing);
    gathered.left = gathered.left.max(MOST_OF_ONE);
    gathered.add("MISSING.txt", missing.as_bytes());
    gathered
}

impl Gathered<'_> {
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, contents)| (name.as_str(), contents.as_slice()))
    }

    fn misses(&mut self, what: &str, why: impl std::fmt::Display) {
        self.missing += &format!("{what}: {why}\n");
    }

    fn add(&mut self, name: &str, contents: &[u8]) {
        let room = self.left.min(MOST_OF_ONE);
        if contents.len() > room {
            self.misses(name, format_args!("cut to {room} of {} bytes", contents.len()));
        }
        let contents = &contents[..contents.len().min(room)];
        let contents = match self.redactor {
            // An address that the cut has parted may be another one now, but a whole one it is not.
            Some(redactor) => redactor.redact(&String::from_utf8_lossy(contents)).into_bytes(),
            None => contents.to_vec(),
        };
        self.left = self.left.saturating_sub(contents.len());
        self.files.push((name.to_owned(), contents));
    }

    fn daemon(&mut self, patient: &Patient) {
        let Some(daemon) = &patient.daemon else { return };
        match (daemon.stats)() {
            Ok(stats) => self.add("daemon-stats.json", format!("{stats:#}\n").as_bytes()),
            Err(why) => self.misses("daemon-stats.json", why),
        }
    }

    fn read(&mut self, path: &str) {
        match read_bounded(Path::new(path)) {
            Ok(contents) => self.add(path.trim_start_matches('/'), &contents),
            Err(error) => self.misses(path, error),
        }
    }

    fn run(&mut self, name: &str, command: &str) {
        match programs::output(command, MOST_OF_ONE + 1) {
            Ok(printed) => {
                let mut contents = format!("# {command}\n").into_bytes();
                contents.extend(printed);
                self.add(name, &contents);
            }
            Err(why) => self.misses(&format!("{name} ({command})"), why),
        }
    }

    /// The last lines of the kernel's log that speak of the network.
    fn log(&mut self) {
        match programs::output("dmesg", MOST_OF_ONE) {
            Ok(printed) => {
                let text = String::from_utf8_lossy(&printed).into_owned();
                let is_about = |line: &&str| {
                    let line = line.to_ascii_lowercase();
                    NETWORK_WORDS.iter().any(|word| line.contains(word))
                };
                let lines: Vec<_> = text.lines().filter(is_about).collect();
                let last = &lines[lines.len().saturating_sub(MOST_LOG_LINES)..];
                self.add("kernel-log.txt", last.join("\n").as_bytes());
            }
            Err(why) => self.misses("kernel-log.txt (dmesg)", why),
        }
    }
}

/// One more byte than may be kept, so that it shows that there was more.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    fs::File::open(path)?.take(MOST_OF_ONE as u64 + 1).read_to_end(&mut contents)?;
    Ok(contents)
}

fn about(patient: &Patient) -> String {
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    format!(
        "{} {}\n{} {} {}\narchitecture: {}\ninterfaces: {}\n\n{}\n",
        patient.role.program(),
        env!("CARGO_PKG_VERSION"),
        line("/proc/sys/kernel/ostype"),
        line("/proc/sys/kernel/osrelease"),
        line("/proc/sys/kernel/version"),
        std::env::consts::ARCH,
        patient.interfaces.join(" "),
        line("/etc/os-release"),
    )
}

/// All settings of the network, as sysctl(8) prints them.
fn settings() -> String {
    let mut text = String::new();
    let mut left = MOST_SETTINGS;
    for root in SETTINGS {
        add_settings(Path::new(root), &mut text, &mut left);
    }
    text
}

fn add_settings(path: &Path, text: &mut String, left: &mut usize) {
    if *left == 0 {
        return;
    }
    if let Ok(folder) = fs::read_dir(path) {
        let mut entries: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for entry in entries {
            add_settings(&entry, text, left);
        }
        return;
    }
    *left -= 1;
    let name = path.display().to_string();
    if SECRETS.iter().any(|secret| name.contains(secret)) {
        return;
    }
    let Ok(value) = read_bounded(path) else { return };
    let name = name.trim_start_matches("/proc/sys/").replace('/', ".");
    for line in String::from_utf8_lossy(&value).lines() {
        *text += &format!("{name} = {}\n", line.replace('\t', " "));
    }
}

/// A name that is safe as part of a path.
fn plain(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.@".contains(c) { c } else { '_' })
        .collect::<String>()
        .replace("..", "__")
}
