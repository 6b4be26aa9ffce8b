//! Connections, and TLS by rustls: the hub's certificate, and connections that are encrypted with it.
//!
//! Owns how connections are accepted, the certificate's files, which are followed, and the handshake. Room for clients' certificates is in
//! [`server_config`].

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::follow::{Contents, Follow};
use crate::tasks::Tasks;

/// A handshake that takes longer is none.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How connections are taken. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tls {
    /// `None`: in clear.
    config: Option<Arc<RwLock<Arc<ServerConfig>>>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.config.is_some() { "Tls(on)" } else { "Tls(off)" })
    }
}

/// A connection, in clear or not.
#[derive(Debug)]
pub struct Io {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    /// Read already, and still to be read by whoever serves it.
    ahead: Bytes,
}

/// Out of file descriptors, or the like: it passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The next connection, and from where. Cancel-safe.
pub async fn accepted(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Small messages are what this is for: none of them may wait for another to fill a packet.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "no TCP_NODELAY");
                }
                return (stream, peer);
            }
            Err(error) if is_the_peers(&error) => tracing::debug!(%error, "a connection was gone before it was taken"),
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// What every HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Io {
    fn new(stream: Either<TcpStream, Box<TlsStream<TcpStream>>>) -> Self {
        Self { stream, ahead: Bytes::new() }
    }

    /// One on which somebody speaks HTTP/2, and soon: who is silent is not worth a connection.
    ///
    /// # Errors
    /// Silence, or something else.
    pub async fn speaking_http2(mut self) -> io::Result<Self> {
        let mut first = vec![0; PREFACE.len()];
        let reading = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.stream.read_exact(&mut first));
        reading.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "nobody speaks"))??;
        if first != PREFACE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is not HTTP/2"));
        }
        self.ahead = first.into();
        Ok(self)
    }
}

impl Tls {
    /// With this certificate chain and its key, in PEM, which are followed until shutdown.
    ///
    /// # Errors
    /// Files that cannot be read, or that do not belong together.
    pub fn with_certificate(certificate: PathBuf, key: PathBuf, tasks: &Tasks) -> Result<Self, String> {
        let follow = Follow { what: "tls", files: vec![certificate, key] };
        let contents = follow.read()?;
        let config = Arc::new(RwLock::new(server_config(&contents)?));
        let taking = Arc::clone(&config);
        let take = move |contents: &Contents| {
            let new = server_config(contents)?;
            *taking.write().unwrap_or_else(PoisonError::into_inner) = new;
            Ok(())
        };
        follow.start(contents, tasks, take, || {});
        Ok(Self { config: Some(config) })
    }

    /// Whether connections are encrypted.
    pub fn is_on(&self) -> bool {
        self.config.is_some()
    }

    /// Makes a connection of one that has been accepted.
    ///
    /// # Errors
    /// A handshake that fails or takes too long.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Io> {
        let Some(config) = &self.config else { return Ok(Io::new(Either::Left(stream))) };
        let config = Arc::clone(&config.read().unwrap_or_else(PoisonError::into_inner));
        let handshake = TlsAcceptor::from(config).accept(stream);
        let taken = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
        let taken =
            taken.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake takes too long"))??;
        Ok(Io::new(Either::Right(Box::new(taken))))
    }
}

fn server_config(contents: &Contents) -> Result<Arc<ServerConfig>, String> {
    let [certificate, key] = &contents[..] else { return Err("two files are read".into()) };
    let wrong = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong("tls.certificate", &error))?;
    if chain.is_empty() {
        return Err("tls.certificate: there is no certificate in it".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong("tls.key", &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("tls", &error))?
        .with_no_client_auth()
        .with_single_cert(chain, key);
    let mut config = config.map_err(|error| wrong("tls.certificate and tls.key", &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Whether a certificate and a key can be served with.
///
/// # Errors
/// Why not.
pub fn check_certificate(certificate: &Path, key: &Path) -> Result<(), String> {
    let files = vec![certificate.to_owned(), key.to_owned()];
    server_config(&Follow { what: "tls", files }.read()?).map(drop)
}

/// The certificates of a file that others' may be signed by.
///
/// # Errors
/// A file that cannot be read or has none.
pub fn trusted(file: &Path) -> Result<Vec<u8>, String> {
    let name = file.display();
    let text = std::fs::read(file).map_err(|error| format!("{name}: {error}"))?;
    match CertificateDer::pem_slice_iter(&text).next() {
        Some(Ok(_)) => Ok(text),
        Some(Err(error)) => Err(format!("{name}: {error}")),
        None => Err(format!("{name}: there is no certificate in it")),
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
