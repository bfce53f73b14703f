//! Instances on a node: what gateways order over their connections is done here.
//!
//! Instances outlive connections. One whose gateway is gone is offered to all others ([`news`]), and the
//! first that takes it has it ([`ledger`]); of a call that it runs nobody hears any more, and it is free
//! when that has ended. A gateway that fell silent may have given up its calls without a word, and may
//! have sent them elsewhere: what runs for it is ended.

mod calls;
mod closing;
mod ledger;
mod news;
mod orders;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bugle_instances::{Awake, Driver, StartError};
use bugle_scheduler::placement::Capacity;
use bugle_types::FunctionSpec;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response, StatusCode};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::parts::{Kind, json_part, part};
use crate::stream::{Broken, Incoming, send};
use crate::wire::{self, Hello, Roster};
use ledger::LinkId;
use news::{Hosted, NEWS};

pub use news::News;

/// An order or a call: a body of 6 MiB, its context, its variables.
const LARGEST_ORDER: usize = 8 * 1024 * 1024;

/// Readies a function's code on this node before its first start, such as by fetching it.
pub type Prepare = Arc<
    dyn Fn(Arc<FunctionSpec>) -> Pin<Box<dyn Future<Output = Result<(), StartError>> + Send>>
        + Send
        + Sync,
>;

/// What this node has and is.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// The build, which must be that of the platform.
    pub build: String,
    /// Which process it is, for people, and unlike any other that there is or was.
    pub process: String,
    /// Thousandths of a core.
    pub cpu: u64,
    /// MiB.
    pub memory: u64,
    /// Other resources by name, in thousandths.
    pub custom: BTreeMap<String, i64>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The Pod pool that it is of.
    pub pool: Option<String>,
    /// The group of that pool.
    pub group: Option<String>,
}

/// The instances of this node; clones are the same.
#[derive(Clone)]
pub struct Host(Arc<Shared>);

struct Shared {
    driver: Arc<dyn Driver>,
    prepare: Prepare,
    offer: Offer,
    /// What is here and whose it is, and who is told.
    news: Arc<News>,
    tasks: TaskTracker,
    draining: CancellationToken,
    awake: Arc<Awake>,
}

impl Host {
    /// A host without instances.
    pub fn new(driver: Arc<dyn Driver>, prepare: Prepare, offer: Offer, news: Arc<News>) -> Self {
        let capacity = Capacity {
            cpu: offer.cpu,
            memory: offer.memory,
            custom: offer.custom.clone(),
        };
        news.quietly(|desk| desk.ledger.open(capacity));
        Self(Arc::new(Shared {
            driver,
            prepare,
            offer,
            news,
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            awake: Arc::default(),
        }))
    }

    /// Asks the gateways to move everything elsewhere.
    pub fn drain(&self) {
        self.0.draining.cancel();
        let draining = part(Kind::Draining, &[]);
        self.0.news.quietly(|desk| desk.tell_all(&draining, None));
    }

    /// Whether the node can have instances: a gateway hears its news, and it does not end.
    pub fn is_ready(&self) -> bool {
        self.is_connected() && !self.0.draining.is_cancelled()
    }

    /// Which process this is.
    pub(crate) fn process(&self) -> &str {
        &self.0.offer.process
    }

    /// Whether a gateway hears the news of this node.
    pub(crate) fn is_connected(&self) -> bool {
        self.0.news.quietly(|desk| desk.is_heard())
    }

    /// Where the gateways are, as one of them said last.
    pub(crate) fn gateways(&self) -> watch::Receiver<Vec<String>> {
        self.0.news.addresses.subscribe()
    }

    /// Instances that are here.
    pub fn count(&self) -> usize {
        self.0.news.quietly(|desk| desk.hosted.len())
    }

    /// Keeps the thread awake between calls that follow one another.
    pub(crate) async fn stay_awake(&self, window: Duration) {
        self.0.awake.run(window).await;
    }

    /// Ends what has been nobody's for so long; the idle ones at once where the node is to end.
    pub(crate) async fn end_orphans(&self, age: Duration, grace: Duration) {
        let before = Instant::now().checked_sub(age);
        let drains = self.0.draining.is_cancelled();
        let old: Vec<Arc<Hosted>> = self.0.news.quietly(|desk| {
            let mut old = before.map_or_else(Vec::new, |at| desk.ledger.orphans_before(at));
            if drains {
                let orphans = desk.ledger.orphans().into_iter();
                old.extend(orphans.filter(|id| desk.ledger.busy_orphan(*id) == Some(false)));
            }
            old.iter()
                .filter_map(|id| desk.hosted.get(id).cloned())
                .collect()
        });
        if !old.is_empty() && !drains {
            tracing::warn!(
                count = old.len(),
                "no gateway wanted instances for long; they are ended"
            );
        }
        let stops = old.iter().map(|hosted| hosted.instance.stop(grace));
        futures_util::future::join_all(stops).await;
    }

    /// Ends everything, within `grace`.
    pub async fn stop(&self, grace: Duration) {
        // Nobody hears the news any more, which ends the tasks that tell them.
        let all: Vec<Arc<Hosted>> = self.0.news.quietly(|desk| {
            desk.detach_all();
            desk.hosted.values().cloned().collect()
        });
        let stops = all.iter().map(|hosted| hosted.instance.stop(grace));
        futures_util::future::join_all(stops).await;
        self.0.tasks.close();
        let _ = tokio::time::timeout(grace, self.0.tasks.wait()).await;
    }

    /// Serves one connection to its end.
    pub(crate) async fn serve<T>(
        &self,
        mut connection: h2::server::Connection<T, Bytes>,
        silent: impl Future<Output = ()>,
    ) -> Served
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let shared = &self.0;
        let link = shared.news.quietly(news::Desk::number);
        let refused = Refusal::default();
        // Also when this future is dropped.
        let mut connected = Connected {
            shared,
            link,
            is_silent: false,
        };
        tokio::pin!(silent);
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = connection.accept() => accepted,
                () = &mut silent => {
                    connected.is_silent = true;
                    None
                }
            };
            match accepted {
                Some(Ok((request, respond))) => {
                    let refused = Arc::clone(&refused);
                    let handled = Arc::clone(shared).handle(link, refused, request, respond);
                    shared.tasks.spawn(handled);
                }
                ended => {
                    return Served {
                        broke: ended.and_then(Result::err),
                        refused: refused.get().cloned(),
                    };
                }
            }
        }
    }
}

/// How a connection ended.
pub(crate) struct Served {
    /// What broke it.
    pub(crate) broke: Option<h2::Error>,
    /// Why the gateway did not take this process in, if it said so.
    pub(crate) refused: Option<String>,
}

/// Why a gateway does not take this process in, once it has said so.
type Refusal = Arc<OnceLock<String>>;

/// A connection, until this is dropped.
struct Connected<'a> {
    shared: &'a Arc<Shared>,
    link: LinkId,
    /// Whether it did not end but nothing is heard over it.
    is_silent: bool,
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        let ended: Vec<Arc<Hosted>> = self.shared.news.with(|desk| {
            let lost = desk.disconnect(self.link);
            // The gateway gives its calls up by itself, later than this: they must not run beside those
            // that replace them.
            let busy = lost
                .iter()
                .filter(|(_, running)| self.is_silent && *running > 0);
            busy.filter_map(|(id, _)| desk.hosted.get(id).cloned())
                .collect()
        });
        for hosted in ended {
            hosted.instance.kill();
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("offer", &self.0.offer)
            .finish_non_exhaustive()
    }
}

impl Shared {
    async fn handle(
        self: Arc<Self>,
        link: LinkId,
        refused: Refusal,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) {
        let (head, body) = request.into_parts();
        let body = Incoming::new(body);
        let handled = match head.uri.path() {
            "/call" => self.call(link, body, respond).await,
            "/exchange" => self.exchange(link, body, respond).await,
            "/start" => self.start(link, body, respond).await,
            "/stop" => self.stop(link, body, respond).await,
            "/kill" => self.kill(link, body, respond).await,
            "/take" => self.take(link, body, respond).await,
            "/leave" => self.leave(link, body, respond).await,
            "/gateways" => self.gateways(link, body, respond).await,
            "/close" => self.close(respond),
            "/open" => self.open(respond),
            "/news" => self.tell_news(link, respond).await,
            "/alive" => answer_with(respond, Bytes::new()).map_err(Broken::from),
            "/refused" => hear_refusal(&refused, body, respond).await,
            _ => refuse(respond),
        };
        if let Err(error) = handled {
            tracing::debug!(%error, path = head.uri.path(), "a stream of a gateway broke");
        }
    }

    /// Hears who the gateways are.
    async fn gateways(
        &self,
        link: LinkId,
        body: Incoming,
        respond: SendResponse<Bytes>,
    ) -> Result<(), Broken> {
        let roster: Roster = wire::json(&body.whole(LARGEST_ORDER).await?)?;
        self.news.hear(link, &roster);
        Ok(answer_with(respond, Bytes::new())?)
    }

    /// Tells a gateway what happens here, until the connection ends.
    async fn tell_news(
        &self,
        link: LinkId,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), Broken> {
        let mut stream = respond.send_response(Response::new(()), false)?;
        let Offer {
            build,
            process,
            cpu,
            memory,
            custom,
            labels,
            pool,
            group,
        } = self.offer.clone();
        let hello = Hello {
            protocol: wire::PROTOCOL,
            build,
            process,
            cpu,
            memory,
            custom,
            labels,
            pool,
            group,
        };
        send(&mut stream, json_part(Kind::Hello, &hello)).await?;
        let mut changed = self.news.changed.subscribe();
        let (sender, mut news) = mpsc::channel(NEWS);
        let (orphans, closed) = self
            .news
            .quietly(|desk| (desk.attach(link, sender), desk.ledger.is_closed()));
        for orphan in orphans {
            send(&mut stream, orphan).await?;
        }
        if closed {
            send(&mut stream, part(Kind::Closed, &[])).await?;
        }
        if self.draining.is_cancelled() {
            send(&mut stream, part(Kind::Draining, &[])).await?;
        }
        let mut told = None;
        changed.mark_changed();
        loop {
            tokio::select! {
                biased;
                bytes = news.recv() => match bytes {
                    Some(bytes) => send(&mut stream, bytes).await?,
                    None => break,
                },
                // The sender lives as long as this.
                _ = changed.changed() => {
                    let others = self.news.quietly(|desk| desk.ledger.others(link));
                    if told.as_ref() != Some(&others) {
                        send(&mut stream, json_part(Kind::Others, &others)).await?;
                        told = Some(others);
                    }
                }
            }
        }
        Ok(stream.send_data(Bytes::new(), true)?)
    }
}

fn answer_with(mut respond: SendResponse<Bytes>, bytes: Bytes) -> Result<(), h2::Error> {
    let mut stream: SendStream<Bytes> = respond.send_response(Response::new(()), false)?;
    stream.send_data(bytes, true)
}

/// Hears why this process is not taken in.
async fn hear_refusal(
    refused: &OnceLock<String>,
    body: Incoming,
    respond: SendResponse<Bytes>,
) -> Result<(), Broken> {
    let reason = body.whole(LARGEST_ORDER).await?;
    // Said once.
    _ = refused.set(String::from_utf8_lossy(&reason).into_owned());
    Ok(answer_with(respond, Bytes::new())?)
}

fn refuse(mut respond: SendResponse<Bytes>) -> Result<(), Broken> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::NOT_FOUND;
    respond.send_response(response, true)?;
    Ok(())
}
