//! How a session gets a byte stream to its peer.

use std::{future::Future, io, path::PathBuf};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};

/// Opens connections for a session; called again after each loss.
pub trait Connect: Send + 'static {
    /// The byte stream.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Opens one connection.
    fn connect(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// Connects to a unix stream socket.
#[derive(Clone, Debug)]
pub struct UnixConnector(pub PathBuf);

impl Connect for UnixConnector {
    type Io = UnixStream;

    async fn connect(&mut self) -> io::Result<UnixStream> {
        UnixStream::connect(&self.0)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.0.display())))
    }
}
