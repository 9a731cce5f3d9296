//! The gateway's local addresses.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::connection::{Client, Gateway};
use crate::{failure::Failure, pages::bare};

/// A local address, and the peer of all calls that come there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    at: At,
    pub(super) peer: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum At {
    Tcp {
        host: String,
        port: u16,
    },
    #[cfg(unix)]
    Unix(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, peer) = match text.split_once('=') {
            Some((address, peer)) => (address, Some(peer.to_owned())),
            None => (text, None),
        };
        #[cfg(unix)]
        if let Some(path) = address.strip_prefix("unix:") {
            let at = At::Unix(PathBuf::from(path.strip_prefix("//").unwrap_or(path)));
            return Ok(Self { at, peer });
        }
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        match (host, port.parse()) {
            ("", _) | (_, Err(_)) => Err(format!(
                "`{text}` is no address to listen on; write `127.0.0.1:port` or `unix:/path`"
            )),
            (host, Ok(port)) => Ok(Self {
                at: At::Tcp {
                    host: host.to_owned(),
                    port,
                },
                peer,
            }),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Tcp { host, port } => write!(f, "{host}:{port}"),
            #[cfg(unix)]
            At::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Place {
    /// Whether only this machine's programs reach it, or with a unix socket only this user's.
    pub(super) fn is_private(&self) -> bool {
        match &self.at {
            At::Tcp { host, .. } => {
                host == "localhost" || bare(host).parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
            }
            #[cfg(unix)]
            At::Unix(_) => true,
        }
    }
}

/// How long the handshake of TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A local connection, whatever it goes over.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

enum Socket {
    Tcp(TcpListener, SocketAddr),
    #[cfg(unix)]
    // The name goes before the listener does, so that a successor keeps its own.
    Unix(Unlinked, tokio::net::UnixListener),
}

/// Removes the socket's file at the end.
#[cfg(unix)]
struct Unlinked(PathBuf);

#[cfg(unix)]
impl Drop for Unlinked {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A place that listens.
pub(super) struct Listener {
    socket: Socket,
    peer: Option<String>,
    /// A unix socket has none: it is this user's alone.
    tls: Option<TlsAcceptor>,
}

impl Listener {
    pub(super) async fn bind(place: &Place, tls: Option<&TlsAcceptor>) -> Result<Self, Failure> {
        let failed = |error| Failure::failed(format!("`--listen {place}`: {error}"));
        let socket = match &place.at {
            At::Tcp { .. } => {
                let listener = TcpListener::bind(place.to_string()).await.map_err(failed)?;
                let addr = listener.local_addr().map_err(failed)?;
                Socket::Tcp(listener, addr)
            }
            #[cfg(unix)]
            At::Unix(path) => bind_unix(path).map_err(failed)?,
        };
        let peer = place.peer.clone();
        let tls = tls.filter(|_| matches!(socket, Socket::Tcp(..))).cloned();
        Ok(Self { socket, peer, tls })
    }

    /// The address that was bound.
    pub(super) fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(_, addr) => addr.to_string(),
            #[cfg(unix)]
            Socket::Unix(path, _) => format!("unix:{}", path.0.display()),
        }
    }

    /// Serves connections until the gateway stops, and those that there are to their end. Dropping the future cuts them.
    pub(super) async fn serve(self, gateway: Arc<Gateway>) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = gateway.stop.cancelled() => break,
                accepted = self.accept() => accepted,
            };
            let (io, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // For instance no file descriptor is left. One may be in a moment.
                    eprintln!("{}: no connection accepted: {error}", self.address());
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let client = Client {
                address,
                peer: self.peer.clone(),
                is_inside: false,
            };
            let (gateway, tls) = (gateway.clone(), self.tls.clone());
            connections.spawn(async move {
                // Beyond the limit a connection is closed rather than left to wait.
                let Ok(_slot) = gateway.slots.try_acquire() else {
                    return;
                };
                let secured = tokio::select! {
                    secured = secured(io, tls) => secured,
                    () = gateway.stop.cancelled() => return,
                };
                match secured {
                    Ok(io) => gateway.clone().serve(io, client).await,
                    Err(error) => {
                        tracing::debug!(client = client.address, %error, "no TLS with a client");
                    }
                }
            });
        }
        drop(self.socket);
        while connections.join_next().await.is_some() {}
    }

    async fn accept(&self) -> io::Result<(Box<dyn Io>, String)> {
        match &self.socket {
            Socket::Tcp(listener, _) => {
                let (io, addr) = listener.accept().await?;
                // Without it the connection is slower, and works.
                let _ = io.set_nodelay(true);
                Ok((Box::new(io), addr.to_string()))
            }
            #[cfg(unix)]
            Socket::Unix(_, listener) => {
                let (io, _) = listener.accept().await?;
                Ok((Box::new(io), "unix".to_owned()))
            }
        }
    }
}

/// The connection once TLS has begun, where there is to be TLS.
async fn secured(io: Box<dyn Io>, tls: Option<TlsAcceptor>) -> io::Result<Box<dyn Io>> {
    match tls {
        None => Ok(io),
        Some(tls) => Ok(Box::new(timeout(HANDSHAKE, tls.accept(io)).await??)),
    }
}

/// Binds a socket that only this user may open. It is made in a folder of this user's and gets its name once it has its mode, so at no time can others
/// open it.
#[cfg(unix)]
fn bind_unix(path: &Path) -> io::Result<Socket> {
    use std::{
        fs,
        os::unix::{
            fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
            net::UnixStream,
        },
    };

    if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        let message = "a file that is no socket is there; choose another path";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    if UnixStream::connect(path).is_ok() {
        let message = "another program listens there";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
    }
    let mut folder = path.as_os_str().to_owned();
    folder.push(format!(".{}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&folder)?;
    let new = Path::new(&folder).join("s");
    let bind = || -> io::Result<Socket> {
        let bound = tokio::net::UnixListener::bind(&new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        fs::rename(&new, path)?;
        Ok(Socket::Unix(Unlinked(path.to_owned()), bound))
    };
    let bound = bind();
    // After a failure the socket may be left in it.
    let _ = fs::remove_dir_all(&folder);
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_with_its_peer() {
        let read = |text: &str| text.parse::<Place>().expect(text);
        let place = read("127.0.0.1:7001=db");
        assert_eq!(
            (place.to_string().as_str(), place.peer.as_deref()),
            ("127.0.0.1:7001", Some("db"))
        );
        assert_eq!(read("unix:/run/gw.sock").to_string(), "unix:/run/gw.sock");
        for text in ["", ":1", "127.0.0.1", "127.0.0.1:x", "1=db"] {
            assert!(
                text.parse::<Place>()
                    .expect_err(text)
                    .contains("unix:/path")
            );
        }
    }

    #[test]
    fn only_loopback_and_unix_sockets_are_private() {
        for (text, private) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            ("unix:/run/gw.sock", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("192.0.2.1:1", false),
            ("db.example:1", false),
        ] {
            assert_eq!(
                text.parse::<Place>().expect(text).is_private(),
                private,
                "{text}"
            );
        }
    }
}
