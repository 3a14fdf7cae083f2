//! One connection from its handshake to its end: what it did, and until when it may do nothing.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    seats::{Class, Seat, Seats},
    serve::Limits,
};

/// Requests that a connection may have open before one of them was allowed. Each of them may wait for the API server.
const STRANGER_REQUESTS: usize = 16;

/// A connection, as its requests find it among their extensions.
#[derive(Clone)]
pub(crate) struct Session(Arc<Inner>);

struct Inner {
    seats: Arc<Mutex<Seats>>,
    seat: Seat,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    class: Class,
    known: bool,
    began: Instant,
    open: usize,
    /// When the last request was answered.
    answered: Instant,
}

/// What the time says of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stays; look again then.
    Stays(Instant),
    /// No request of it was allowed in time.
    NeverAsked,
    /// Nothing is open on it for too long.
    Idle,
}

impl Session {
    pub(crate) fn new(seats: &Arc<Mutex<Seats>>, class: Class, seat: Seat) -> Self {
        let now = Instant::now();
        let state = State { class, known: false, began: now, open: 0, answered: now };
        Self(Arc::new(Inner { seats: Arc::clone(seats), seat, state: Mutex::new(state) }))
    }

    /// Resolves when the connection has to make room.
    pub(crate) async fn evicted(&self) {
        self.0.seat.evicted.cancelled().await;
    }

    /// A request was allowed: from now on the connection may live as long as it is used.
    pub(crate) fn known(&self) {
        let mut state = self.0.state.lock();
        if !std::mem::replace(&mut state.known, true) {
            self.0.seats.lock().promote(state.class, &self.0.seat);
            state.class = Class::Known;
        }
    }

    /// Whether a request was allowed.
    pub(crate) fn is_known(&self) -> bool {
        self.0.state.lock().known
    }

    /// A request is being answered until the guard is dropped. None if too many are for a connection that proved nothing.
    pub(crate) fn request(&self) -> Option<Answering> {
        let mut state = self.0.state.lock();
        if !state.known && state.open >= STRANGER_REQUESTS {
            return None;
        }
        state.open += 1;
        Some(Answering(self.clone()))
    }

    pub(crate) fn judge(&self, limits: &Limits) -> Verdict {
        let (state, now) = (*self.0.state.lock(), Instant::now());
        let (until, verdict) = match state {
            State { known: false, .. } => (state.began + limits.first_request, Verdict::NeverAsked),
            State { open: 0, .. } => (state.answered + limits.idle, Verdict::Idle),
            _ => (now + limits.idle, Verdict::Idle),
        };
        if now < until { Verdict::Stays(until) } else { verdict }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let class = self.state.get_mut().class;
        self.seats.lock().leave(class, &self.seat);
    }
}

/// A request that is being answered.
pub(crate) struct Answering(Session);

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.0.state.lock();
        state.open -= 1;
        state.answered = Instant::now();
    }
}

/// The body of an answer, which is over when the last of it was taken.
pub(crate) struct Answer {
    pub(crate) body: Body,
    pub(crate) _answering: Answering,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
