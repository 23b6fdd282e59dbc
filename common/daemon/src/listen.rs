//! Whoever connects is served, so many at a time.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Semaphore;

/// How long to wait after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_secs(1);

/// Has `serve` talk to each whom `accept` lets in, until the runtime ends: `most` at a time, further ones wait to be
/// accepted.
pub(crate) async fn serve_each<S, F: Future<Output = ()> + Send + 'static>(
    most: usize,
    accept: impl Fn(&mut Context<'_>) -> Poll<io::Result<S>>,
    serve: impl Fn(S) -> F,
) {
    let places = Arc::new(Semaphore::new(most));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match poll_fn(&accept).await {
            Ok(stream) => {
                let served = serve(stream);
                tokio::spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an operator's connection can't be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
