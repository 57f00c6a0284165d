//! Counters that anyone may read: a fixed schema, nothing about content.
//!
//! `/metrics` is readable by the host and by everyone else. Live counts would undo the channel's
//! padding: whoever polls them sees when each answer begins and ends. The page is therefore a
//! snapshot, taken by the clock and not on request. Tokens and the KV cache's fill level are not
//! shown at all: requests of known size beside another's would tell that one's exact length.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use hyper::StatusCode;
use inference::EngineStats;

/// Name, type, and each label with its value.
type Row<'a> = (&'a str, &'a str, &'a [(&'a str, u64)]);

/// The counters.
#[derive(Debug, Default)]
pub struct Metrics {
    sessions_active: AtomicU64,
    sessions: AtomicU64,
    handshakes_failed: AtomicU64,
    responses: [AtomicU64; 3],
    cancelled: AtomicU64,
    page: Mutex<String>,
}

/// A session in progress; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct ActiveSession<'a>(&'a Metrics);

impl Metrics {
    pub(crate) fn session(&self) -> ActiveSession<'_> {
        self.sessions.fetch_add(1, Relaxed);
        self.sessions_active.fetch_add(1, Relaxed);
        ActiveSession(self)
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Relaxed);
    }

    pub(crate) fn response(&self, status: StatusCode) {
        let class = match status.as_u16() {
            0..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        self.responses[class].fetch_add(1, Relaxed);
    }

    pub(crate) fn generation_cancelled(&self) {
        self.cancelled.fetch_add(1, Relaxed);
    }

    /// Takes a new snapshot.
    pub(crate) fn publish(&self, engine: EngineStats, slots: u32) {
        let rendered = self.render(engine, slots);
        *self.page.lock().unwrap_or_else(PoisonError::into_inner) = rendered;
    }

    /// The last snapshot: the text that Prometheus reads.
    pub(crate) fn page(&self) -> String {
        let page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        page.clone()
    }

    fn render(&self, engine: EngineStats, slots: u32) -> String {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let [good, refused, failed] = &self.responses;
        let free = slots.saturating_sub(engine.active);
        let rows: [Row<'_>; 7] = [
            (
                "sessions_active",
                "gauge",
                &[("", load(&self.sessions_active))],
            ),
            ("sessions_total", "counter", &[("", load(&self.sessions))]),
            (
                "handshakes_failed_total",
                "counter",
                &[("", load(&self.handshakes_failed))],
            ),
            (
                "responses_total",
                "counter",
                &[
                    ("{class=\"2xx\"}", load(good)),
                    ("{class=\"4xx\"}", load(refused)),
                    ("{class=\"5xx\"}", load(failed)),
                ],
            ),
            (
                "generations_cancelled_total",
                "counter",
                &[("", load(&self.cancelled))],
            ),
            ("slots_free", "gauge", &[("", free.into())]),
            ("requests_queued", "gauge", &[("", engine.queued.into())]),
        ];
        let mut text = String::new();
        for (name, kind, values) in rows {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# TYPE cloister_{name} {kind}");
            for (label, value) in values {
                let _ = writeln!(text, "cloister_{name}{label} {value}");
            }
        }
        text
    }
}

impl Drop for ActiveSession<'_> {
    fn drop(&mut self) {
        self.0.sessions_active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_fixed_and_counts_no_tokens() {
        let metrics = Metrics::default();
        let session = metrics.session();
        metrics.response(StatusCode::OK);
        metrics.response(StatusCode::NOT_FOUND);
        metrics.generation_cancelled();
        let engine = EngineStats {
            active: 3,
            ..EngineStats::default()
        };
        let text = metrics.render(engine, 16);
        for line in [
            "cloister_sessions_active 1",
            "cloister_sessions_total 1",
            "cloister_responses_total{class=\"2xx\"} 1",
            "cloister_responses_total{class=\"4xx\"} 1",
            "cloister_responses_total{class=\"5xx\"} 0",
            "cloister_generations_cancelled_total 1",
            "cloister_slots_free 13",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let names = |text: &str| -> Vec<String> {
            let names = text.lines().filter(|line| !line.starts_with('#'));
            names
                .filter_map(|line| Some(line.split(' ').next()?.to_owned()))
                .collect()
        };
        drop(session);
        assert_eq!(
            names(&text),
            names(&metrics.render(EngineStats::default(), 16))
        );
        assert_eq!(names(&text).len(), 9);
        assert!(!text.contains("token"));
    }
}
