//! The steps of a run: the same for every transport.

use super::interrupt::Interrupt;
use super::outcome::Outcome;
use super::plan::{CAPTURED, CONGESTION, PACKETS, Plan};
use super::script::{self, BPF_FOLDER, Detached};
use super::site::{Role, Site};
use super::station::{Measured, RECORDING};
use super::transport::{Transport, Unreachable};
use crate::compare::choice::{ClientKind, IpVersion, Mode, ServerKind};
use crate::compare::counters::{HostCounters, Snapshot};
use crate::compare::environment::Environment;
use crate::compare::measurement::Measurement;
use crate::compare::plan::{Step, WARM_UP};
use crate::compare::statistics::thousandth;
use crate::nic::Counts;
use crate::report::{self, Report};
use anyhow::{Context, anyhow, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Bound of a script that has little to do.
const SHORT: Duration = Duration::from_secs(60);
/// Before a host that could not be reached is looked for again.
const PAUSE: Duration = Duration::from_secs(3);
/// How much later than its last connection what a measurement has caused is over.
const SETTLE: Duration = Duration::from_millis(500);

/// Does all of it: finds the hosts, installs, measures both modes, captures, and in any case stops and clears what it
/// has brought, and checks that. Returns whether every connection succeeded.
///
/// # Errors
/// If a step fails, if the user interrupts, or if something is left running.
pub fn run(transport: &mut dyn Transport, plan: &Plan, interrupt: &Interrupt) -> anyhow::Result<bool> {
    let description = transport.description();
    let mut run = Run {
        transport,
        plan,
        interrupt,
        site: None,
        devices: Default::default(),
        started: Vec::new(),
        rtt: plan.rtt,
    };
    let measured = run.all();
    interrupt.set_aside();
    let ended = run.end();
    let (results, mut environment) = match (measured, ended) {
        (Ok(measured), Ok(())) => measured,
        (Err(error), Ok(())) if run.site.is_some() => {
            let logs = plan.out.join("logs");
            return Err(error.context(format!("all is stopped, with logs in {}", logs.display())));
        }
        (Err(error), Ok(())) => return Err(error),
        (Ok(_), Err(left)) => return Err(left),
        (Err(error), Err(left)) => return Err(anyhow!("{left:#}; before that: {error:#}")),
    };
    environment.wan = description;
    environment.versions.insert("testbed", env!("CARGO_PKG_VERSION").to_owned());
    let log = std::fs::read_to_string(plan.out.join("logs/clientnic-daemon.log")).unwrap_or_default();
    let answered = Counts::read(&log).of("event.spoofed_paired");
    let report = Report { results, skipped: Vec::new(), environment, ladders: Vec::new() };
    let site = run.site.context("the hosts were lost")?;
    let outcome = Outcome::new(report, site, answered);
    outcome.publish(&plan.json, &plan.out.join("report.html"))?;
    Ok(outcome.is_success())
}

/// A file on a host that is to be fetched at the end.
#[derive(Debug, Clone)]
struct Wanted {
    role: Role,
    name: String,
    to: PathBuf,
}

struct Run<'a> {
    transport: &'a mut dyn Transport,
    plan: &'a Plan,
    interrupt: &'a Interrupt,
    /// None before the hosts are found.
    site: Option<Site>,
    /// The devices of each host's interfaces, in the order of [`Role::ALL`] and [`Site::interfaces`].
    devices: [Vec<String>; 4],
    started: Vec<Wanted>,
    /// By which both modes are compared: as asked for, else as first measured.
    rtt: Option<Duration>,
}

/// What both modes measured, and where.
type Results = (Vec<Measurement>, Environment);

impl Run<'_> {
    fn all(&mut self) -> anyhow::Result<Results> {
        std::fs::create_dir_all(&self.plan.out)
            .with_context(|| format!("can't make {}", self.plan.out.display()))?;
        let site = self.transport.discover()?;
        self.site = Some(site);
        say("found", &format!("{} → {}", site.client, site.server));
        self.install()?;
        self.look_at_devices()?;
        self.join_nics()?;
        let server = format!("serve --address {} --congestion {CONGESTION} --realtime", self.server()?);
        self.start(Role::Server, "http-server", &server, "listening on")?;
        let (kernel, environment) = self.mode(Mode::Kernel)?;
        for role in [Role::ServerNic, Role::ClientNic] {
            self.start_daemon(role)?;
        }
        let (paired, _) = self.mode(Mode::Paired)?;
        Ok((vec![kernel, paired], environment))
    }

    /// Puts the executable onto every host, and the key onto the NICs. What an earlier run may have left is ended first.
    fn install(&mut self) -> anyhow::Result<()> {
        for role in Role::ALL {
            let folder = self.transport.folder(role);
            self.on(role, "stop what an earlier run left", &script::stop(&folder, ""), SHORT)?;
            let nic = matches!(role, Role::ClientNic | Role::ServerNic);
            self.on(role, "prepare", &script::prepare(&folder, nic), SHORT)?;
        }
        say("installing", &self.plan.executable.display().to_string());
        self.transport.put(&Role::ALL, &self.plan.executable, "testbed", 0o755)?;
        let drawer = tempfile::tempdir().context("can't make a folder for the key")?;
        let key = drawer.path().join("key");
        let mut command = Command::new(&self.plan.executable);
        let made = command.args(["clientnic", "keygen"]).arg(&key).output();
        let made = made.with_context(|| format!("can't run {}", self.plan.executable.display()))?;
        if !made.status.success() {
            bail!("keygen failed: {}", String::from_utf8_lossy(&made.stderr).trim());
        }
        self.transport.put(&[Role::ClientNic, Role::ServerNic], &key, "key", 0o600)
    }

    fn look_at_devices(&mut self) -> anyhow::Result<()> {
        let site = self.site()?;
        for (index, role) in Role::ALL.into_iter().enumerate() {
            let addresses: Vec<_> = site.interfaces(role).into_iter().map(|(_, address)| address).collect();
            let script = script::devices(&self.transport.folder(role), &addresses);
            let said = self.on(role, "find devices", &script, SHORT)?;
            self.devices[index] = said.lines().map(str::to_owned).collect();
            if self.devices[index].len() != addresses.len() {
                bail!(
                    "{role}: {} devices for {} addresses: {said:?}",
                    self.devices[index].len(),
                    addresses.len()
                );
            }
        }
        Ok(())
    }

    /// Leads what the NICs forward through each other, and delays it if asked for.
    fn join_nics(&mut self) -> anyhow::Result<()> {
        let site = self.site()?;
        for role in [Role::ClientNic, Role::ServerNic] {
            let route = site.route(role).context("a NIC has a route")?;
            let arguments = format!("station route {} {} {}", route.network, route.prefix, route.gateway);
            self.on(role, "route", &script::execute(&self.transport.folder(role), &arguments), SHORT)?;
            if let Some(rtt) = self.plan.rtt.filter(|_| self.transport.wants_delay()) {
                let device = self.devices_of(role).get(1).context("a NIC has two devices")?;
                self.on(role, "delay", &script::delay(device, rtt / 2), SHORT)?;
            }
        }
        Ok(())
    }

    fn start_daemon(&mut self, role: Role) -> anyhow::Result<()> {
        let drawer = tempfile::tempdir().context("can't make a folder for the configuration")?;
        let file = drawer.path().join("daemon.toml");
        report::write(&file, &self.configuration(role)?)?;
        self.transport.put(&[role], &file, "daemon.toml", 0o600)?;
        let name = format!("{role}-daemon");
        self.start(role, &name, &format!("{role} run --config daemon.toml"), "ready")
    }

    fn configuration(&self, role: Role) -> anyhow::Result<String> {
        let folder = self.transport.folder(role);
        let devices: Vec<_> = self.devices_of(role).iter().map(|device| format!("{device:?}")).collect();
        let mode = if role == Role::ClientNic { "mode = \"paired\"\n" } else { "" };
        Ok(format!(
            "interface = [{}]\nservice = [\"{}/32:{}\"]\nkey-file = {:?}\nstate-dir = {:?}\nbpf-dir = {BPF_FOLDER:?}\n{mode}",
            devices.join(", "),
            self.site()?.server,
            self.plan.port,
            format!("{folder}/key"),
            format!("{folder}/state"),
        ))
    }

    /// Measures a mode, then captures some more of its connections.
    fn mode(&mut self, mode: Mode) -> anyhow::Result<(Measurement, Environment)> {
        say("measuring", mode.name());
        let before = self.counters()?;
        let measured = self.connect(&format!("{}.json", mode.name()), WARM_UP, self.plan.connections)?;
        self.interrupt.sleep(SETTLE)?;
        let counted = before.until(&self.counters()?);
        let rtt = Duration::from_micros(measured.rtt);
        let step = Step {
            mode,
            client: ClientKind::Builtin,
            server: ServerKind::Builtin,
            ip: IpVersion::V4,
            rtt_ms: thousandth(self.rtt.get_or_insert(rtt).as_secs_f64() * 1e3),
        };
        let measurement = Measurement::new(step, rtt, measured.collected(), counted);
        self.capture(mode)?;
        Ok((measurement, measured.environment))
    }

    fn connect(&mut self, name: &str, warm_up: u32, connections: u32) -> anyhow::Result<Measured> {
        let arguments = format!(
            "station measure --server {} --congestion {CONGESTION} --warm-up {warm_up} --connections {connections} \
             --json {name}",
            self.server()?
        );
        let script = script::execute(&self.transport.folder(Role::Client), &arguments);
        self.on(Role::Client, "connect", &script, self.plan.measuring())?;
        let to = self.plan.out.join(name);
        self.transport.get(Role::Client, name, &to)?;
        let text = std::fs::read_to_string(&to).with_context(|| format!("can't read {}", to.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not what a client writes", to.display()))
    }

    fn counters(&mut self) -> anyhow::Result<Snapshot> {
        let mut counters = [HostCounters::default(); 4];
        for (of_host, role) in counters.iter_mut().zip(Role::ALL) {
            let script = script::execute(&self.transport.folder(role), "station counters");
            let said = self.on(role, "read counters", &script, SHORT)?;
            *of_host =
                serde_json::from_str(said.trim()).with_context(|| format!("{role} has said {said:?}"))?;
        }
        Ok(Snapshot::of(counters))
    }

    /// Records a few connections on both sides of every hop.
    fn capture(&mut self, mode: Mode) -> anyhow::Result<()> {
        say("capturing", mode.name());
        let site = self.site()?;
        for role in Role::ALL {
            for (index, (arm, _)) in site.interfaces(role).into_iter().enumerate() {
                let name = format!("capture-{}-{arm}", mode.name());
                let file = format!("{name}.pcapng");
                let device = self.devices_of(role).get(index).context("a device is missing")?;
                let arguments = format!(
                    "station record --interface {} --packets {PACKETS} --file {file}",
                    script::quote(device)
                );
                let to =
                    self.plan.out.join("captures").join(mode.name()).join(format!("{role}-{arm}.pcapng"));
                self.start(role, &name, &arguments, RECORDING)?;
                self.started.push(Wanted { role, name: file, to });
            }
        }
        self.connect(&format!("{}-captured.json", mode.name()), 0, CAPTURED)?;
        self.interrupt.sleep(SETTLE)?;
        for role in Role::ALL {
            self.on(role, "end captures", &script::stop(&self.transport.folder(role), "capture-"), SHORT)?;
        }
        Ok(())
    }

    /// Starts a program that stays; its log is wanted whatever happens to it.
    fn start(&mut self, role: Role, name: &str, arguments: &str, mark: &str) -> anyhow::Result<()> {
        let log = format!("{name}.log");
        if !name.starts_with("capture-") {
            let to = self.plan.out.join("logs").join(&log);
            self.started.push(Wanted { role, name: log, to });
        }
        let detached = Detached { name, arguments, mark, lifetime: self.plan.lifetime() };
        let script = script::start(&self.transport.folder(role), &detached);
        self.on(role, &format!("start {name}"), &script, SHORT).map(drop)
    }

    /// Stops what runs on the hosts, fetches what they have, and clears them. Goes on when one of these fails: each host
    /// is to be left as it was as far as possible.
    fn end(&mut self) -> anyhow::Result<()> {
        if self.site.is_none() {
            return Ok(());
        }
        say("stopping", "");
        let (mut failures, mut stopped) = (Vec::new(), Vec::new());
        for role in Role::ALL {
            match self.on(role, "stop", &script::stop(&self.transport.folder(role), ""), SHORT) {
                Ok(_) => stopped.push(role),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        for wanted in std::mem::take(&mut self.started) {
            failures.extend(self.fetch(&wanted).err().map(|error| format!("{error:#}")));
        }
        for (index, role) in Role::ALL.into_iter().enumerate() {
            // By what lies in its folder the next run ends what this one could not.
            if !stopped.contains(&role) {
                continue;
            }
            let nic = matches!(role, Role::ClientNic | Role::ServerNic);
            let devices = if nic { self.devices[index].as_slice() } else { &[] };
            let delayed = self.plan.rtt.is_some() && self.transport.wants_delay();
            let script = script::clear(&self.transport.folder(role), devices, delayed);
            failures.extend(self.on(role, "clear", &script, SHORT).err().map(|error| format!("{error:#}")));
        }
        failures.extend(self.transport.finish().err().map(|error| format!("{error:#}")));
        match failures.as_slice() {
            [] => Ok(()),
            _ if stopped.len() == Role::ALL.len() => {
                bail!("everything is stopped, but: {}", failures.join("; "))
            }
            _ => bail!("something may still run on the hosts: {}", failures.join("; ")),
        }
    }

    fn fetch(&self, wanted: &Wanted) -> anyhow::Result<()> {
        let folder = wanted.to.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        self.transport.get(wanted.role, &wanted.name, &wanted.to)
    }

    /// Runs a script that has to succeed, and returns what it printed. A host that can't be reached may have been
    /// restarted since, with other addresses: it is looked for again, once.
    fn on(&mut self, role: Role, purpose: &str, script: &str, bound: Duration) -> anyhow::Result<String> {
        let output = match self.transport.run(role, purpose, script, bound) {
            Err(error) if error.is::<Unreachable>() => {
                say("looking again", &format!("{error:#}"));
                self.interrupt.sleep(PAUSE)?;
                self.site = Some(self.transport.discover()?);
                self.transport.run(role, purpose, script, bound)
            }
            outcome => outcome,
        };
        let output = output.with_context(|| format!("{role}: {purpose}"))?;
        if output.status != 0 {
            let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
            bail!("{role}: {purpose}: status {}: {}", output.status, said.trim());
        }
        Ok(output.stdout)
    }

    fn site(&self) -> anyhow::Result<Site> {
        self.site.context("the hosts have not been found")
    }

    fn server(&self) -> anyhow::Result<String> {
        Ok(format!("{}:{}", self.site()?.server, self.plan.port))
    }

    fn devices_of(&self, role: Role) -> &[String] {
        Role::ALL.iter().position(|candidate| *candidate == role).map_or(&[], |index| &self.devices[index])
    }
}

/// Tells the user how far the run is.
fn say(what: &str, of: &str) {
    eprintln!("{what} {of}");
}
