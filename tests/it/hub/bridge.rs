//! A network that a test can cut.

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Hands everything that comes to this port on to another, until dropped.
pub(super) struct Bridge(#[allow(dead_code, reason = "dropping it ends it")] JoinSet<()>);

impl Bridge {
    pub(super) async fn open(from: u16, to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", from)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self(tasks)
    }
}

/// A port where nobody listens.
pub(super) async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

pub(super) fn port_of(url: &str) -> u16 {
    let host = url.split("//").nth(1).unwrap().split('/').next().unwrap();
    host.rsplit(':').next().unwrap().parse().unwrap()
}
