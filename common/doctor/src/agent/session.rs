//! One client of an agent.

use std::net::IpAddr;
use std::time::Duration;

use crate::peer::station::{BATCH, Station};
use crate::probe::arriving::Watch;
use crate::talk::message::{Line, Reply, Request, VERSION};

/// How long it may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// How long it may have the agent wait for segments.
const PATIENCE: u64 = 5_000;
/// Segments that are sent to it at most.
const SEGMENTS: usize = 4_000;

/// A client, and what it has asked for so far.
#[derive(Debug)]
pub(super) struct Session {
    line: Line,
    local: IpAddr,
    client: IpAddr,
    has_greeted: bool,
    station: Option<Station>,
    watch: Option<Watch>,
    sent: usize,
}

impl Session {
    /// Takes a connection from `client` to our address `local`.
    pub(super) fn new(line: Line, local: IpAddr, client: IpAddr) -> Self {
        Self { line, local, client, has_greeted: false, station: None, watch: None, sent: 0 }
    }

    /// Answers until the client has no more to ask, or its time is over.
    pub(super) fn run(mut self) {
        while let Ok(Some(request)) = self.line.read(SILENCE) {
            let reply = request.and_then(|request| self.answer(request));
            let reply = reply.unwrap_or_else(|why| Reply::Error { why });
            if self.line.write(&reply).is_err() {
                break;
            }
        }
    }

    fn answer(&mut self, request: Request) -> Result<Reply, String> {
        match request {
            Request::Hello { version: VERSION } => {
                self.has_greeted = true;
                Ok(Reply::Hello { version: VERSION, address: self.client })
            }
            Request::Hello { .. } => Err(format!("this doctor speaks version {VERSION}")),
            _ if !self.has_greeted => Err("hello comes first".to_owned()),
            Request::Open { service } => self.open(service),
            Request::Send { shots } => {
                self.sent += shots.len().min(BATCH);
                if self.sent > SEGMENTS {
                    return Err(format!("{SEGMENTS} segments are enough"));
                }
                self.station()?.send(&shots).map(Reply::Sent)
            }
            Request::Catch { expected, patience } => {
                let patience = Duration::from_millis(patience.min(PATIENCE));
                Ok(Reply::Caught { items: self.station()?.catch(expected.min(BATCH), patience)? })
            }
            Request::Watch { protocol, port } => {
                // The one before ends first: it may have the port.
                self.watch = None;
                self.watch = Some(Watch::start(protocol, port, self.client)?);
                Ok(Reply::Ready)
            }
            Request::Report => {
                let watch = self.watch.take().ok_or("nothing is being watched")?;
                Ok(Reply::Sightings { sightings: watch.finish() })
            }
        }
    }

    fn open(&mut self, service: Option<u16>) -> Result<Reply, String> {
        self.station = None;
        let station = self.station.insert(Station::open(self.local, self.client, service)?);
        Ok(Reply::Opened { ports: station.ports(), mtu: station.mtu() })
    }

    fn station(&mut self) -> Result<&mut Station, String> {
        self.station.as_mut().ok_or_else(|| "nothing has been opened".to_owned())
    }
}
