//! The task that owns the socket: sends what the session wants sent, when it wants it.

use std::sync::Arc;
use std::time::Duration;

use channel::Output;
use futures_util::{Sink, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::clock::Clock;
use crate::duplex::Shared;
use crate::error::{Error, Stage};
use crate::socket::{self, Incoming, Socket};

const PING_EVERY: Duration = Duration::from_secs(20);
/// A peer that shows no sign of life for that long is given up.
const ALIVE_TIMEOUT: Duration = Duration::from_secs(65);
/// How long a stream that was shut down, then dropped, may still send what it holds.
const LINGER: Duration = Duration::from_secs(5);

pub(crate) async fn run<S>(socket: Socket<S>, shared: Arc<Shared>, clock: Clock)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, mut stream) = socket.split();
    let outcome = tokio::select! {
        outcome = write(&mut sink, &shared, &clock) => outcome,
        outcome = read(&mut stream, &shared, &clock) => outcome,
        () = abandoned(&shared) => Err(Error::HungUp),
    };
    {
        let mut state = shared.lock();
        state.fault = Some(outcome.err().unwrap_or(Error::HungUp));
        state.wake_reader();
        state.wake_writer();
    }
    socket::close(&mut sink, outcome.is_err_and(|error| error.is_fault())).await;
}

/// Sends records and pings, until both sides are done.
async fn write<S>(sink: &mut S, shared: &Shared, clock: &Clock) -> Result<(), Error>
where
    S: Sink<Message, Error = tungstenite::Error> + Unpin,
{
    let mut ping_at = Instant::now() + PING_EVERY;
    loop {
        let (output, done) = {
            let mut state = shared.lock();
            let output = state.session.poll(clock.now())?;
            let done = state.session.is_close_sent() && state.session.is_peer_done();
            if matches!(output, Output::Record(_)) {
                // Room came about, or the closing record is made.
                state.wake_writer();
            }
            (output, done)
        };
        let wake_at = match output {
            Output::Record(wire) => {
                socket::send(sink, socket::binary(wire)).await?;
                continue;
            }
            _ if done => return Ok(()),
            Output::Wait(moment) => ping_at.min(clock.instant(moment)),
            Output::Idle => ping_at,
        };
        tokio::select! {
            () = shared.output.notified() => {}
            () = sleep_until(wake_at) => {}
        }
        if Instant::now() >= ping_at {
            socket::send(sink, socket::ping()).await?;
            ping_at = Instant::now() + PING_EVERY;
        }
    }
}

/// Takes records as long as there is room, until the peer is gone.
async fn read<S>(stream: &mut S, shared: &Shared, clock: &Clock) -> Result<(), Error>
where
    S: Stream<Item = tungstenite::Result<Message>> + Unpin,
{
    loop {
        while !shared.lock().session.has_room() {
            shared.room.notified().await;
        }
        let message = timeout(ALIVE_TIMEOUT, stream.next())
            .await
            .map_err(|_| Error::Timeout(Stage::Alive))?;
        match socket::sort(message)? {
            Incoming::Alive => {}
            Incoming::Message(wire) => {
                let mut state = shared.lock();
                state.session.receive(&wire, clock.now())?;
                state.wake_reader();
                shared.output.notify_one();
            }
            Incoming::End => {
                let mut state = shared.lock();
                state.session.end()?;
                return match state.session.is_close_sent() {
                    true => Ok(()),
                    false => Err(Error::HungUp),
                };
            }
        }
    }
}

/// Ends when the application let go. What it shut down before may still leave.
async fn abandoned(shared: &Shared) {
    shared.dropped.notified().await;
    if shared.lock().closing {
        sleep(LINGER).await;
    }
}
