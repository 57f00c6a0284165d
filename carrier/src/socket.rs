//! The WebSocket: binary messages, bounded, with deadlines.

use std::time::Duration;

use channel::FAULT_CODE;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, tungstenite};

use crate::error::{Error, Stage};

/// A peer that reads nothing for that long is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) type Socket<S> = WebSocketStream<S>;

pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(32 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(256 * 1024)
        .max_message_size(Some(crate::MAX_MESSAGE_BYTES))
        .max_frame_size(Some(crate::MAX_MESSAGE_BYTES))
}

/// Sends one message, and waits until it left.
pub(crate) async fn send<S>(socket: &mut S, message: Message) -> Result<(), Error>
where
    S: Sink<Message, Error = tungstenite::Error> + Unpin,
{
    match timeout(SEND_TIMEOUT, socket.send(message)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(Error::Timeout(Stage::Send)),
    }
}

pub(crate) fn binary(bytes: Vec<u8>) -> Message {
    Message::Binary(Bytes::from(bytes))
}

pub(crate) fn ping() -> Message {
    Message::Ping(Bytes::new())
}

/// What came from the peer, if it is ours to look at.
pub(crate) enum Incoming {
    Message(Bytes),
    /// Ping or pong: the peer lives.
    Alive,
    /// The peer closed, in order or not.
    End,
}

pub(crate) fn sort(message: Option<tungstenite::Result<Message>>) -> Result<Incoming, Error> {
    match message {
        Some(Ok(Message::Binary(bytes))) => Ok(Incoming::Message(bytes)),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Incoming::Alive),
        Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == FAULT_CODE => {
            Err(Error::PeerFault)
        }
        None | Some(Ok(Message::Close(_))) => Ok(Incoming::End),
        Some(Ok(Message::Text(_) | Message::Frame(_))) => Err(Error::Message),
        Some(Err(error)) => match Error::from(error) {
            Error::HungUp => Ok(Incoming::End),
            error => Err(error),
        },
    }
}

/// The next binary message of a handshake.
pub(crate) async fn receive<S>(
    socket: &mut S,
    deadline: Instant,
    stage: Stage,
) -> Result<Bytes, Error>
where
    S: Stream<Item = tungstenite::Result<Message>> + Unpin,
{
    loop {
        let message = timeout_at(deadline, socket.next())
            .await
            .map_err(|_| Error::Timeout(stage))?;
        match sort(message)? {
            Incoming::Message(bytes) => return Ok(bytes),
            Incoming::Alive => {}
            Incoming::End => return Err(Error::HungUp),
        }
    }
}

/// Tells the peer that it is over: as a fault, or in order. It may not listen any more.
pub(crate) async fn close<S>(socket: &mut S, fault: bool)
where
    S: Sink<Message, Error = tungstenite::Error> + Unpin,
{
    let frame = fault.then(|| CloseFrame {
        code: FAULT_CODE.into(),
        reason: Utf8Bytes::from_static(""),
    });
    // The outcome changes nothing: the connection is dropped next.
    drop(timeout(CLOSE_TIMEOUT, socket.send(Message::Close(frame))).await);
}
