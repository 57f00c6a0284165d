//! Whose a request is.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::scheduler::Message;

/// One client of an engine, made by [`Engine::client`](crate::Engine::client). Clones are the same
/// client.
///
/// The requests of a client are served in turn with those of others. What the cache holds of them
/// stays for its next request that begins alike, and for nobody else's. When the last clone is
/// dropped, all that is kept is zeroed.
#[derive(Clone)]
pub struct Client(Arc<Presence>);

struct Presence {
    number: u64,
    scheduler: Sender<Message>,
}

impl Client {
    pub(crate) fn new(number: u64, scheduler: Sender<Message>) -> Self {
        Self(Arc::new(Presence { number, scheduler }))
    }

    pub(crate) fn number(&self) -> u64 {
        self.0.number
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // A scheduler that has ended keeps nothing.
        let _ = self.scheduler.send(Message::Left(self.number));
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.number()).finish()
    }
}
