//! Metrics for Prometheus, and whether the daemon is well, over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | all metrics, in the text format 0.0.4 |
//! | `/healthz` | 200 while every packet thread goes round its loop, else 503 |
//! | `/readyz` | 200 while new connections are also begun, else 503: draining |

mod exposition;
pub mod family;

use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::control::{Health, Question, Questions};
use crate::http::{Answer, HttpSocket, text};
use crate::stats::Stats;

/// How long the control loop may take to answer before the daemon passes for ill.
const ANSWER: Duration = Duration::from_secs(2);

/// Serves all who ask, until the runtime ends.
pub(crate) async fn serve(socket: HttpSocket, questions: Questions) {
    socket
        .serve(move |path| {
            let questions = questions.clone();
            async move { answer(&path, &questions).await }
        })
        .await;
}

async fn answer(path: &str, questions: &Questions) -> Answer {
    match path {
        "/metrics" => match ask(questions, Question::Stats).await {
            Ok(stats) => exposed(&stats),
            Err(silence) => silence,
        },
        "/healthz" => health(ask(questions, Question::Health).await, false),
        "/readyz" => health(ask(questions, Question::Health).await, true),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
    }
}

/// Asks the control loop; its silence is an answer, too.
async fn ask<T>(
    questions: &Questions,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Result<T, Answer> {
    let answer = timeout(ANSWER, questions.ask(question)).await.ok().flatten();
    answer.ok_or_else(|| text(StatusCode::SERVICE_UNAVAILABLE, "the daemon does not answer\n"))
}

fn health(health: Result<Health, Answer>, must_be_ready: bool) -> Answer {
    match health {
        Err(silence) => silence,
        Ok(Health { is_alive: false, .. }) => {
            text(StatusCode::SERVICE_UNAVAILABLE, "a packet thread stands still\n")
        }
        Ok(Health { is_draining: true, .. }) if must_be_ready => {
            text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        }
        Ok(_) => text(StatusCode::OK, "ok\n"),
    }
}

fn exposed(stats: &Stats) -> Answer {
    family::exposed(&exposition::families(stats))
}
