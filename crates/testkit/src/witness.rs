//! A way out of an instance for what a test has to know: instances write no files that others see.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Takes down what functions report to it over the loopback interface.
#[derive(Debug)]
pub struct Witness {
    port: u16,
    reports: Arc<Mutex<Vec<String>>>,
    listener: JoinHandle<()>,
}

impl Witness {
    /// Python source of `report(port, text)`, which returns when the report has been taken down.
    pub const REPORT: &str = r"
import socket
def report(port, text):
    with socket.create_connection(('127.0.0.1', port)) as witness:
        witness.sendall(text.encode())
        witness.shutdown(socket.SHUT_WR)
        witness.recv(1)
";

    /// Listens from now until it is dropped.
    ///
    /// # Panics
    ///
    /// The loopback interface has no free port.
    #[expect(clippy::unwrap_used, reason = "a test cannot go on without it")]
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let reports = Arc::<Mutex<Vec<String>>>::default();
        let taken = Arc::clone(&reports);
        let listener = tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let taken = Arc::clone(&taken);
                tokio::spawn(async move {
                    let mut text = String::new();
                    // Whoever was killed while it spoke has reported all the same.
                    _ = connection.read_to_string(&mut text).await;
                    taken.lock().push(text);
                    _ = connection.write_all(b"!").await;
                });
            }
        });
        Self {
            port,
            reports,
            listener,
        }
    }

    /// What `report` is to be given.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How often `text` was reported.
    pub fn count(&self, text: &str) -> usize {
        self.reports
            .lock()
            .iter()
            .filter(|one| *one == text)
            .count()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
