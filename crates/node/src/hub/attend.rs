//! One connection to the port of nodes, from its first byte to its last.

use std::sync::Arc;
use std::time::Duration;

use bugle_instances::LogLine;
use bugle_scheduler::placement::{Capacity, Health, NodeId, NodeView};
use bugle_types::report;
use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::shared::Unreadable;
use super::{PAUSE, Shared};
use crate::beat::{OF_GATEWAYS, until_silent};
use crate::link::Link;
use crate::members::Error;
use crate::parts::{Garbage, Kind, Part};
use crate::remote::RemoteDriver;
use crate::strangers::Stranger;
use crate::stream::{Broken, CONNECTION_WINDOW, FRAME, STREAM_WINDOW, STREAMS};
use crate::wire::{self, ALPN_NODE, Gone, Hello, Line, Told};

/// How long whoever connects may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// How long a node may take to fetch a package.
const FETCHING: Duration = Duration::from_mins(10);

/// How long this gateway may take to hear of a node that has joined through another.
const HEARSAY: Duration = Duration::from_secs(1);

/// Labels that one node may have, and the bytes of each.
const LABELS: usize = 256;
const LABEL: usize = 512;

impl Shared {
    pub(super) async fn connection(self: Arc<Self>, stream: TcpStream, stranger: Stranger) {
        // A socket that is gone already fails below.
        let _ = stream.set_nodelay(true);
        let accepting = tokio::time::timeout(INTRODUCTION, self.acceptor.accept(stream));
        let stream = match stranger.during(accepting).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => {
                tracing::debug!(%error, "whoever came to the port of nodes is none of ours");
                return;
            }
            Some(Err(_)) | None => return,
        };
        let (_, session) = stream.get_ref();
        let is_node = session.alpn_protocol() == Some(ALPN_NODE);
        let certificate = session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|certificate| certificate.clone().into_owned());
        if !is_node {
            // A package may take its time; a stranger has one thing to say.
            let is_stranger = certificate.is_none();
            let limit = if is_stranger { INTRODUCTION } else { FETCHING };
            let served = tokio::time::timeout(limit, self.serve_requests(stream, certificate));
            if is_stranger {
                _ = stranger.during(served).await;
            } else {
                drop(stranger);
                _ = served.await;
            }
            return;
        }
        let known = match &certificate {
            Some(certificate) => self.who(certificate).await,
            None => Err(Error::Certificate),
        };
        drop(stranger);
        match known {
            Ok(node) => self.attend(node, stream).await,
            Err(error) => refused(&error),
        }
    }

    /// The node with a certificate. Another gateway may have given it that in this moment.
    async fn who(&self, certificate: &CertificateDer<'_>) -> Result<NodeId, Error> {
        let until = Instant::now() + HEARSAY;
        loop {
            match self.members.who(certificate).await {
                Err(Error::Certificate) if self.gateways.is_some() && Instant::now() < until => {
                    tokio::time::sleep(PAUSE).await;
                }
                known => return known,
            }
        }
    }

    /// Has the connection of a node to its end.
    async fn attend(self: Arc<Self>, node: NodeId, stream: TlsStream<TcpStream>) {
        let handshake = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .initial_max_send_streams(STREAMS as usize)
            .enable_push(false)
            .handshake::<_, Bytes>(stream);
        let Ok(Ok((sender, mut connection))) = tokio::time::timeout(INTRODUCTION, handshake).await
        else {
            return;
        };
        let beat = until_silent(connection.ping_pong(), OF_GATEWAYS);
        let open = Arc::clone(&self.open_environment);
        let orders = self.members.orders().clone();
        let link = Link::new(node, sender, open, orders, self.gateways.is_some());
        let lost = link.lost().clone();
        let broken = tokio::spawn({
            let lost = lost.clone();
            async move {
                tokio::select! {
                    biased;
                    () = lost.cancelled() => {}
                    ended = connection => tracing::debug!(?ended, "the connection to a node ended"),
                    () = beat => tracing::warn!("a node does not answer"),
                }
                lost.cancel();
            }
        });
        let heard = async {
            tokio::select! {
                heard = self.listen(&link) => heard,
                never = self.introduce_gateways(&link) => match never {},
            }
        };
        let listened = lost.run_until_cancelled(heard).await;
        if let Some(Err(Broken::Garbage(garbage))) = listened {
            tracing::warn!(node = %link.node, reason = %garbage, "a node is given up");
        }
        self.lose(&link);
        lost.cancel();
        _ = broken.await;
    }

    pub(super) fn lose(&self, link: &Arc<Link>) {
        link.lose();
        self.forget_orphans(link);
        let mut links = self.links.lock();
        let current = links
            .get(&link.node)
            .is_some_and(|current| Arc::ptr_eq(current, link));
        if current {
            links.remove(&link.node);
            self.fleet.leave(&link.node);
            tracing::info!(node = %link.node, "a node is gone");
        }
    }

    /// Takes a node in and hears its news, or refuses it.
    async fn listen(self: &Arc<Self>, link: &Arc<Link>) -> Result<(), Broken> {
        let mut news = link.news().await?;
        let first = tokio::time::timeout(INTRODUCTION, news.part()).await;
        let hello: Hello = match first {
            Ok(Ok(Some(Part {
                kind: Kind::Hello,
                payload,
            }))) => wire::json(&payload)?,
            _ => return Err(Garbage("a node that does not say what it is").into()),
        };
        if hello.protocol != wire::PROTOCOL || hello.build != self.build {
            tracing::warn!(
                node = %link.node, theirs = hello.build, ours = self.build,
                "a node is of another build and is refused; use the same on both sides"
            );
            return Ok(());
        }
        if hello.process.len() > LABEL {
            return Err(Garbage("a longer name of a process than a node may have").into());
        }
        link.be(hello.process.clone());
        let mut view = view(&link.node, hello)?;
        match self.members.member(&link.node).await {
            Ok(Some(member)) => {
                // Of which pool a Pod is, the cluster has said.
                view.pool = member.pod.map_or(view.pool, |pod| Some(pod.pool));
                if member.draining {
                    view.health = Health::Draining;
                }
            }
            Ok(None) => {
                // While it connected.
                refused(&Error::Certificate);
                return Ok(());
            }
            Err(error) => {
                refused(&error);
                return Ok(());
            }
        }
        if let Some(twin) = self.twin_of(&link.node, link.process()).await {
            return self.refuse(link, &twin).await;
        }
        self.add(link, view);
        // What was decided meanwhile was told to the connections that there were.
        let decided = self.members.member(&link.node).await;
        self.heed(&link.node, decided.map_err(|_| Unreadable));
        link.introduce();
        while let Some(Part { kind, payload }) = news.part().await? {
            match kind {
                Kind::Exit => link.ended(wire::json(&payload)?),
                Kind::Found => self.found(link, wire::json(&payload)?)?,
                Kind::Gone => {
                    let Gone { function, id } = wire::json(&payload)?;
                    self.not_orphan(link, &function, id);
                }
                Kind::Others => self.fleet.set_others(&link.node, wire::json(&payload)?),
                Kind::Told => {
                    let Told { revision } = wire::json(&payload)?;
                    link.told(revision);
                }
                Kind::Closed => self.fleet.close(&link.node),
                Kind::Open => self.fleet.open(&link.node),
                Kind::Log => {
                    let line: Line = wire::json(&payload)?;
                    if link.takes_lines_of(line.instance, &line.function) {
                        self.logs.line(self::line(line));
                    }
                }
                Kind::Draining => {
                    link.end();
                    self.set_draining(&link.node, true);
                }
                _ => return Err(Garbage("news of no known kind").into()),
            }
        }
        Ok(())
    }

    fn add(self: &Arc<Self>, link: &Arc<Link>, view: NodeView) {
        link.drain(view.health == Health::Draining);
        let mut links = self.links.lock();
        if self.closing.is_cancelled() {
            return;
        }
        if let Some(before) = links.insert(link.node.clone(), Arc::clone(link)) {
            // The same node again: its earlier connection is dead, and that was not noticed yet.
            self.forget_orphans(&before);
            before.lose();
        }
        tracing::info!(node = %link.node, cpu = view.capacity.cpu, memory = view.capacity.memory, "a node has come");
        self.fleet.leave(&link.node);
        let driver = RemoteDriver {
            link: Arc::clone(link),
            fleet: self.fleet.clone(),
        };
        self.fleet.join(view, Arc::new(driver));
    }
}

fn refused(error: &Error) {
    let reason = report(error);
    tracing::warn!(reason, "a node was refused");
}

fn view(node: &NodeId, hello: Hello) -> Result<NodeView, Garbage> {
    let long = |text: &String| text.len() > LABEL;
    let labels = hello.labels.len() > LABELS || hello.custom.len() > LABELS;
    let names = hello
        .labels
        .iter()
        .any(|(key, value)| long(key) || long(value));
    if labels || names || hello.custom.keys().any(long) {
        return Err(Garbage("more or longer labels than a node may have"));
    }
    Ok(NodeView {
        id: node.clone(),
        capacity: Capacity {
            cpu: hello.cpu,
            memory: hello.memory,
            custom: hello.custom,
        },
        labels: hello.labels,
        pool: hello.pool,
        group: hello.group,
        health: Health::Live,
    })
}

fn line(line: Line) -> LogLine {
    LogLine {
        function: Arc::new(line.function),
        instance: line.instance,
        request: line.request.map(Into::into),
        stream: line.stream,
        text: line.text,
    }
}
