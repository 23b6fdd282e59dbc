//! The flows of the daemon before this one.

use std::path::Path;
use std::time::Instant;

use rtt0_core::engine::Engine;
use rtt0_core::limits::Limits;
use rtt0_netio::clock;
use rtt0_netio::store::{Found, Store};

use crate::failure::Failure;

/// Opens the state file of `program` in `folder` and has the engine go on with the flows it finds
/// there. `None` if the engine keeps none.
///
/// # Errors
/// [`Failure::State`]. Damaged records are no error: they are counted and logged.
pub(crate) fn restore(
    folder: &Path,
    program: &str,
    engine: &mut impl Engine,
) -> Result<Option<Store>, Failure> {
    let Some(journal) = engine.journal() else { return Ok(None) };
    journal.open();
    let began = Instant::now();
    let mut store = Store::open(folder, program)?;
    let now = clock::now();
    let found = store.load(Limits::default().flows, |slot, record| engine.restore(now, slot, record))?;
    tell(&store, &found, began);
    Ok(Some(store))
}

fn tell(store: &Store, found: &Found, began: Instant) {
    let file = store.path().display();
    if !store.is_in_memory() {
        tracing::warn!(%file, "the state file is not in memory (tmpfs): writing it may delay packets");
    }
    if found.is_foreign {
        tracing::warn!(%file, "the state is of another version or from before a reboot: begun anew");
    }
    if found.refused > 0 {
        tracing::warn!(%file, records = found.refused, "records that can't be used were removed");
    }
    if found.restored > 0 {
        let ms = began.elapsed().as_millis() as u64;
        tracing::info!(%file, flows = found.restored, ms, "established flows are translated on");
    }
}
