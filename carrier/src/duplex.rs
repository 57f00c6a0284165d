//! The application's end: a byte stream.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::{fmt, io};

use channel::Session;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::driver;
use crate::error::Error;
use crate::socket::Socket;

/// A verified channel as a plain stream. Dropping it ends the connection.
pub struct Duplex {
    shared: Arc<Shared>,
}

/// What the application's end and the driver share.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Something may be to send.
    pub(crate) output: Notify,
    /// There may be room for another record.
    pub(crate) room: Notify,
    /// The application let go of the stream.
    pub(crate) dropped: Notify,
}

pub(crate) struct State {
    pub(crate) session: Session,
    pub(crate) fault: Option<Error>,
    pub(crate) closing: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(crate) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub(crate) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    fn wait_to_write<T>(&mut self, context: &Context<'_>) -> Poll<io::Result<T>> {
        match self.fault {
            Some(fault) => Poll::Ready(Err(fault.into())),
            None => {
                self.writer = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Starts the driver of an open session.
pub(crate) fn spawn<S>(socket: Socket<S>, session: Session, clock: Clock) -> Duplex
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            session,
            fault: None,
            closing: false,
            reader: None,
            writer: None,
        }),
        output: Notify::new(),
        room: Notify::new(),
        dropped: Notify::new(),
    });
    tokio::spawn(driver::run(socket, Arc::clone(&shared), clock));
    Duplex { shared }
}

impl Duplex {
    /// A handle by which a server says that an answer is open.
    pub fn cadence(&self) -> Cadence {
        Cadence {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Duplex {
    fn drop(&mut self) {
        self.shared.dropped.notify_one();
    }
}

impl fmt::Debug for Duplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Duplex")
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let count = state.session.read(out.initialize_unfilled());
        if count > 0 {
            out.advance(count);
            self.shared.room.notify_one();
            return Poll::Ready(Ok(()));
        }
        if state.session.is_peer_done() {
            return Poll::Ready(Ok(()));
        }
        if let Some(fault) = state.fault {
            return Poll::Ready(Err(fault.into()));
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        if let Some(fault) = state.fault {
            return Poll::Ready(Err(fault.into()));
        }
        let count = state.session.write(data).map_err(Error::from)?;
        if count == 0 && !data.is_empty() {
            return state.wait_to_write(context);
        }
        self.shared.output.notify_one();
        Poll::Ready(Ok(count))
    }

    /// A client's data leaves now. Does not wait until it left: a server's leaves on its cadence.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        if state.session.is_close_sent() {
            return Poll::Ready(Ok(()));
        }
        if let Some(fault) = state.fault {
            return Poll::Ready(Err(fault.into()));
        }
        state.session.flush();
        self.shared.output.notify_one();
        Poll::Ready(Ok(()))
    }

    /// Waits until all data and the closing record left.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        if state.session.is_close_sent() {
            return Poll::Ready(Ok(()));
        }
        if !state.closing {
            state.session.close();
            state.closing = true;
            self.shared.output.notify_one();
        }
        state.wait_to_write(context)
    }
}

/// Tells the shaper of a server's stream about its answers.
#[derive(Clone)]
pub struct Cadence {
    shared: Arc<Shared>,
}

impl Cadence {
    /// An answer begins. Records leave on every tick until the hold is dropped: take it when the
    /// request is known, keep it in the answer's body.
    pub fn hold(&self) -> Hold {
        self.shared.lock().session.hold();
        self.shared.output.notify_one();
        Hold {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// An answer is open.
pub struct Hold {
    shared: Arc<Shared>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.lock().session.release();
        self.shared.output.notify_one();
    }
}

impl fmt::Debug for Cadence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cadence")
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}
