//! One connection to a node, as the platform has it: questions are asked over it, and the ends of the
//! instances behind it are told.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bugle_instances::{EnvironmentOpener, Exit, ExitCause, InstanceId};
use bugle_scheduler::placement::NodeId;
use bugle_types::FunctionId;
use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, StatusCode, Uri};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{SetOnce, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::orders::OrderKey;
use crate::parts::Garbage;
use crate::stream::{Broken, Incoming};
use crate::wire::{Ended, StartOrder};

/// The answer to an order or to a stop.
const SMALL_ANSWER: usize = 1024 * 1024;

/// How long a process may take to say that it lives when another one says that it is the same node. A node that starts
/// again after it fell silent waits for so long.
const ALIVE_WITHIN: Duration = Duration::from_secs(1);

type Ends = HashMap<InstanceId, watch::Sender<Option<Exit>>>;

/// Instances that are over, of which lines may still be on their way.
const OVER: usize = 1024;

/// Whose lines the node may send.
#[derive(Debug, Default)]
struct Writers {
    functions: HashMap<InstanceId, FunctionId>,
    /// The older ones first.
    over: VecDeque<InstanceId>,
}

/// One connection to a node.
pub(crate) struct Link {
    pub(crate) node: NodeId,
    sender: SendRequest<Bytes>,
    open_environment: EnvironmentOpener,
    orders: OrderKey,
    ends: Mutex<Ends>,
    writers: Mutex<Writers>,
    /// Cancelled when the connection is gone.
    lost: CancellationToken,
    draining: watch::Sender<bool>,
    /// Whether the node has links to other gateways as well.
    is_shared: bool,
    /// The last roster that the node has acted upon.
    told: watch::Sender<u64>,
    /// Which process of the node it is, since that has said so.
    process: OnceLock<String>,
    /// The last one that was refused because of this one.
    refused: Mutex<String>,
    /// Whether it has been taken in, and whether it is about to end.
    introduced: SetOnce<()>,
    is_ending: AtomicBool,
    /// Instances that it says are nobody's.
    pub(crate) orphans: AtomicUsize,
    /// Where what nobody waits for is sent.
    runtime: Handle,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn new(
        node: NodeId,
        sender: SendRequest<Bytes>,
        open_environment: EnvironmentOpener,
        orders: OrderKey,
        is_shared: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            sender,
            open_environment,
            orders,
            ends: Mutex::default(),
            writers: Mutex::default(),
            lost: CancellationToken::new(),
            draining: watch::Sender::new(false),
            is_shared,
            told: watch::Sender::new(0),
            process: OnceLock::new(),
            refused: Mutex::default(),
            introduced: SetOnce::new(),
            is_ending: AtomicBool::new(false),
            orphans: AtomicUsize::new(0),
            runtime: Handle::current(),
        })
    }

    /// Cancelled when the connection is gone; to cancel it is to give the connection up.
    pub(crate) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// The connection is gone: every instance behind it is lost.
    pub(crate) fn lose(&self) {
        self.lost.cancel();
        let exit = Exit {
            cause: self.cause(),
            peak_memory: 0,
        };
        for (_, end) in self.ends.lock().drain() {
            end.send_replace(Some(exit.clone()));
        }
    }

    /// The instances get no further call, or may again.
    pub(crate) fn drain(&self, draining: bool) {
        self.draining.send_if_modified(|now| {
            let changed = *now != draining;
            *now = draining;
            changed
        });
    }

    /// Waits until the instances get no further call. Cancel safe.
    pub(crate) async fn drained(&self) {
        let mut draining = self.draining.subscribe();
        if draining.wait_for(|draining| *draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// An instance is not waited for any more.
    pub(crate) fn forget(&self, id: InstanceId) {
        self.ends.lock().remove(&id);
        self.over(id);
    }

    /// Puts the platform's mark on an order to this node.
    pub(crate) fn mark(&self, order: &mut StartOrder) {
        self.orders.mark(&self.node, order);
    }

    /// Whether the platform gave that order to this node.
    pub(crate) fn has_ordered(&self, order: &StartOrder) -> bool {
        self.orders.has_marked(&self.node, order)
    }

    /// Takes the lines that an instance of `function` writes from now on.
    pub(crate) fn take_lines_of(&self, id: InstanceId, function: &FunctionId) {
        let mut writers = self.writers.lock();
        writers.functions.insert(id, function.clone());
    }

    /// Whether a line is from whom the node says.
    pub(crate) fn takes_lines_of(&self, id: InstanceId, function: &FunctionId) -> bool {
        self.writers.lock().functions.get(&id) == Some(function)
    }

    /// An instance is over; its last lines may come still.
    pub(crate) fn over(&self, id: InstanceId) {
        let mut writers = self.writers.lock();
        writers.over.push_back(id);
        if writers.over.len() > OVER
            && let Some(oldest) = writers.over.pop_front()
            && !self.ends.lock().contains_key(&oldest)
        {
            writers.functions.remove(&oldest);
        }
    }

    /// Sends what nobody waits for.
    pub(crate) fn post(self: &Arc<Self>, path: &'static str, question: Bytes) {
        let link = Arc::clone(self);
        self.runtime.spawn(async move {
            // A node that is gone needs it no more.
            drop(link.ask_small(path, question).await);
        });
    }

    /// What opens the variables of functions.
    pub(crate) fn open_environment(&self) -> &EnvironmentOpener {
        &self.open_environment
    }

    /// Whether the node has links to other gateways as well.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Says which process of the node it is.
    pub(crate) fn be(&self, process: String) {
        // It says so once.
        _ = self.process.set(process);
    }

    /// Which process it is; none before it has said so.
    pub(crate) fn process(&self) -> &str {
        self.process.get().map_or("", String::as_str)
    }

    /// Whether it still is there. One that has ended is noticed at once, one that fell silent when it does not answer in
    /// time. Cancel safe.
    pub(crate) async fn is_alive(&self) -> bool {
        let asked = timeout(ALIVE_WITHIN, self.ask_small(ALIVE, Bytes::new()));
        let answered = self.lost.run_until_cancelled(asked).await;
        matches!(answered, Some(Ok(Ok(_))))
    }

    /// Refuses another process of the node because of this one. Whether that is news.
    pub(crate) fn refuses(&self, process: &str) -> bool {
        let mut refused = self.refused.lock();
        let is_news = *refused != process;
        process.clone_into(&mut refused);
        is_news
    }

    /// The node has been taken in.
    pub(crate) fn introduce(&self) {
        // It may be only once.
        _ = self.introduced.set(());
    }

    /// Waits until it has been. Cancel safe.
    pub(crate) async fn introduced(&self) {
        self.introduced.wait().await;
    }

    /// The node is about to end.
    pub(crate) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    /// The node has acted upon a roster.
    pub(crate) fn told(&self, revision: u64) {
        self.told.send_if_modified(|told| {
            let newer = revision > *told;
            *told = revision.max(*told);
            newer
        });
    }

    /// Waits until it has, or is gone. Cancel safe.
    pub(crate) async fn heard(&self, revision: u64) {
        let mut told = self.told.subscribe();
        tokio::select! {
            () = self.lost.cancelled() => {}
            // The sender lives as long as this.
            _ = told.wait_for(|told| *told >= revision) => {}
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// An instance ended.
    pub(crate) fn ended(&self, ended: Ended) {
        let end = self.ends.lock().remove(&ended.id);
        if let Some(end) = end {
            self.over(ended.id);
            end.send_replace(Some(ended.exit));
        }
    }

    /// Where the end of an instance will be told. What is told of it from now on is not missed.
    pub(crate) fn expect(
        &self,
        id: InstanceId,
        function: &FunctionId,
    ) -> watch::Receiver<Option<Exit>> {
        self.take_lines_of(id, function);
        let mut ends = self.ends.lock();
        let end = ends.entry(id).or_insert_with(|| watch::Sender::new(None));
        let receiver = end.subscribe();
        if self.lost.is_cancelled() {
            end.send_replace(Some(Exit {
                cause: self.cause(),
                peak_memory: 0,
            }));
        }
        receiver
    }

    /// Why what is behind a lost connection ended.
    pub(crate) fn cause(&self) -> ExitCause {
        ExitCause::NodeLost {
            node: self.node.as_str().into(),
        }
    }

    /// Opens a stream. The request is on its way when this returns.
    pub(crate) fn ask(
        &self,
        path: &'static str,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), ExitCause> {
        if self.lost.is_cancelled() {
            return Err(self.cause());
        }
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = Uri::from_static(path);
        // A handle of its own: one that waits for a free stream takes no second request.
        let mut sender = self.sender.clone();
        sender
            .send_request(request, false)
            .map_err(|_| self.cause())
    }

    /// A question whose answer is a few bytes.
    pub(crate) async fn ask_small(
        &self,
        path: &'static str,
        question: Bytes,
    ) -> Result<Bytes, Broken> {
        let broken = || Broken::Garbage(Garbage("the connection is gone"));
        let (response, mut stream) = self.ask(path).map_err(|_| broken())?;
        stream.send_data(question, true)?;
        let response = response.await?;
        if response.status() != StatusCode::OK {
            return Err(Garbage("a node that does not know what it is asked").into());
        }
        Incoming::new(response.into_body())
            .whole(SMALL_ANSWER)
            .await
    }

    /// The node's news, from its hello on.
    pub(crate) async fn news(&self) -> Result<Incoming, Broken> {
        let broken = || Broken::Garbage(Garbage("the connection is gone"));
        let (response, mut stream) = self.ask(NEWS).map_err(|_| broken())?;
        stream.send_data(Bytes::new(), true)?;
        Ok(Incoming::new(response.await?.into_body()))
    }

    /// Something that is not of the protocol came: the node is not what it says, and is given up.
    pub(crate) fn give_up(&self, garbage: &Garbage) {
        tracing::warn!(node = %self.node, reason = %garbage, "a node broke the protocol and is given up");
        self.lost.cancel();
    }
}

/// The paths, as a client of HTTP/2 wants them.
pub(crate) const START: &str = "http://node/start";
pub(crate) const CALL: &str = "http://node/call";
pub(crate) const EXCHANGE: &str = "http://node/exchange";
pub(crate) const STOP: &str = "http://node/stop";
pub(crate) const KILL: &str = "http://node/kill";
pub(crate) const TAKE: &str = "http://node/take";
pub(crate) const LEAVE: &str = "http://node/leave";
pub(crate) const GATEWAYS: &str = "http://node/gateways";
pub(crate) const CLOSE: &str = "http://node/close";
pub(crate) const OPEN: &str = "http://node/open";
pub(crate) const REFUSED: &str = "http://node/refused";
const ALIVE: &str = "http://node/alive";
const NEWS: &str = "http://node/news";
