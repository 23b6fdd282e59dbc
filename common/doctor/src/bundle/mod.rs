//! Everything that is needed for a report, in one file: what the doctor read, as it read it, and what the host's own programs
//! say of interfaces, routes, filters and queues.
//!
//! Keys and state files are never part of it. What could not be had is told in `MISSING.txt`. The compressor is in
//! Rust like the rest, so that no C compiler is needed to build the programs; it need not be the best for a file of this size.

mod gather;
mod programs;
mod redact;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tar::{Builder, Header};

use crate::patient::Patient;
use crate::report::Report;
use gather::Gathered;
use redact::Redactor;

/// The folder that all files are in.
const FOLDER: &str = "doctor";

/// Writes a new file, a tar archive compressed by Zstandard (RFC 8878), mode 0600.
///
/// # Errors
/// If it can't be made; an existing one is never overwritten.
pub fn write(file: &Path, patient: &Patient, report: &Report, is_redacted: bool) -> io::Result<()> {
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    let redactor = is_redacted.then(Redactor::of_this_host);
    let gathered = gather::everything(patient, report, redactor.as_ref());
    let written = archive(&gathered)
        .map(|archive| compress_to_vec(&archive[..], CompressionLevel::Fastest))
        .and_then(|compressed| out.write_all(&compressed))
        .and_then(|()| out.sync_all());
    if written.is_err() {
        // Half an archive is of no use to anybody.
        let _ = fs::remove_file(file);
    }
    written
}

fn archive(gathered: &Gathered<'_>) -> io::Result<Vec<u8>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut archive = Builder::new(Vec::new());
    for (name, contents) in gathered.files() {
        let mut header = Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        archive.append_data(&mut header, format!("{FOLDER}/{name}"), contents)?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    fn unpack(file: &Path) -> HashMap<String, String> {
        let compressed = fs::read(file).unwrap();
        let mut plain = ruzstd::decoding::StreamingDecoder::new(&compressed[..]).unwrap();
        let mut bytes = Vec::new();
        plain.read_to_end(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (name, text)
        });
        entries.collect()
    }

    #[test]
    fn a_bundle_holds_the_report_and_what_it_rests_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bundle.tar.zst");
        let mut report = Report::default();
        report.note("gateway", "10.20.30.40");
        write(&file, &Patient::host(Vec::new()), &report, false).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let files = unpack(&file);
        assert!(files["doctor/report.txt"].contains("10.20.30.40"));
        assert!(files["doctor/report.json"].contains("10.20.30.40"));
        assert!(files["doctor/proc/net/snmp"].contains("Udp:"));
        assert!(files["doctor/sysctl.txt"].contains("net.ipv4.ip_forward = "));
        assert!(!files["doctor/sysctl.txt"].contains("fastopen_key"));
        assert!(files.contains_key("doctor/MISSING.txt"));
        let again = write(&file, &Patient::host(Vec::new()), &report, false);
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_redacted_one_has_no_address_of_this_host() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bundle.tar.zst");
        let mut report = Report::default();
        report.note("gateway", "10.20.30.40 02:03:04:05:06:07 fd00:1:2:3::4");
        write(&file, &Patient::host(Vec::new()), &report, true).unwrap();
        let own = rtt0_netio::interface::local_addresses();
        let own = own.iter().filter(|address| !address.is_loopback()).map(ToString::to_string);
        let secrets = ["10.20.30.40", "02:03:04:05:06:07", "fd00:1:2:3::4"].map(str::to_owned);
        for secret in own.chain(secrets) {
            for (name, text) in unpack(&file) {
                assert!(!text.contains(&secret), "{secret} in {name}");
            }
        }
    }
}
