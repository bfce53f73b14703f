//! What a function wrote at other gateways: its instances are where it is scheduled, and that moves.
//!
//! Every other gateway is asked, for its last lines, and for what comes where somebody follows the
//! log. Lines travel as JSON, one a line: first those that there are, then a mark, then news.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bugle_api::operator::LogEntry;
use bugle_cluster::Cluster;
use bugle_node::GATEWAY;
use bugle_types::FunctionId;
use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::questions::FOLLOWING;
use super::{Sharing, port};
use crate::logs::{LogKey, LogStore};

/// The path of logs at other gateways.
pub(super) const LOGS: &str = "/logs";

/// News of all other gateways that may wait for whoever follows; beyond, their connections wait.
const WAITING: usize = 256;

/// The longest line that is read of another gateway, in bytes; a function's are cut far below.
const LONGEST: usize = 4 << 20;

/// The pause before a gateway whose log broke off is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Which lines of a function's log are wanted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) function: FunctionId,
    /// As entries spell it; any, if it is missing.
    pub(crate) version: Option<String>,
    /// Only of the call with this request id.
    pub(crate) request: Option<String>,
    /// The most of those that there are.
    pub(crate) limit: usize,
    /// Whether news are wanted, too.
    pub(crate) follow: bool,
}

impl Wanted {
    /// Whether a line is one of them.
    pub(crate) fn accepts(&self, entry: &LogEntry) -> bool {
        let version = self.version.as_ref();
        version.is_none_or(|wanted| *wanted == entry.version)
            && (self.request.is_none() || self.request == entry.request)
    }
}

/// What comes while a log is followed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum News {
    /// A line.
    Line(LogEntry),
    /// So many lines came too fast.
    Lost(u64),
    /// What was there already ends here.
    Now,
}

/// The last lines, of several logs, in the order of their times. Those of one log keep theirs.
pub(crate) fn merge(logs: Vec<Vec<Arc<LogEntry>>>, limit: usize) -> Vec<Arc<LogEntry>> {
    let mut all: Vec<_> = logs.into_iter().flatten().collect();
    // The form of times sorts as they do.
    all.sort_by(|one, other| one.time.cmp(&other.time));
    all.split_off(all.len().saturating_sub(limit))
}

/// What comes next in a log that is followed here; none when that ends.
pub(crate) async fn next(
    live: &mut tokio::sync::broadcast::Receiver<Arc<LogEntry>>,
    wanted: &Wanted,
    stop: &CancellationToken,
) -> Option<News> {
    loop {
        let entry = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            entry = live.recv() => entry,
        };
        match entry {
            Ok(entry) if wanted.accepts(&entry) => {
                return Some(News::Line(Arc::unwrap_or_clone(entry)));
            }
            Ok(_) => {}
            Err(RecvError::Lagged(lost)) => return Some(News::Lost(lost)),
            Err(RecvError::Closed) => return None,
        }
    }
}

/// What another gateway gets of the log here, until `stop` if it follows.
pub(super) fn answer(logs: &LogStore, wanted: Wanted, stop: CancellationToken) -> port::Body {
    let key = LogKey::of(&wanted.function);
    if !wanted.follow && !logs.knows(&key) {
        // Nothing is kept of names that somebody made up.
        let end = futures_util::future::ready(line(&News::Now));
        return port::Body::new(StreamBody::new(stream::once(end)));
    }
    let (tail, live) = logs.follow(&key, wanted.limit, |entry| wanted.accepts(entry));
    let past = tail
        .into_iter()
        .map(|entry| News::Line(Arc::unwrap_or_clone(entry)))
        .chain([News::Now]);
    let news = if wanted.follow {
        let live = (live, wanted, stop);
        let news = stream::unfold(live, async |(mut live, wanted, stop)| {
            let news = next(&mut live, &wanted, &stop).await?;
            Some((news, (live, wanted, stop)))
        });
        news.left_stream()
    } else {
        stream::empty().right_stream()
    };
    let frames = stream::iter(past).chain(news);
    port::Body::new(StreamBody::new(frames.map(|news| line(&news))))
}

fn line(news: &News) -> Result<Frame<Bytes>, port::BoxError> {
    let mut line = serde_json::to_vec(news)?;
    line.push(b'\n');
    Ok(Frame::data(Bytes::from(line)))
}

/// A log at another gateway, as it is read.
struct Log {
    body: Incoming,
    read: BytesMut,
}

impl Log {
    /// Asks a gateway. None, with a word in the log, if it does not answer.
    async fn open(cluster: &Cluster, member: &str, wanted: &Wanted) -> Option<Self> {
        let opened = async {
            let question = serde_json::to_vec(wanted).map_err(|error| error.to_string())?;
            let request = Request::post(format!("https://{GATEWAY}{LOGS}"))
                .body(Full::new(Bytes::from(question)))
                .map_err(|error| error.to_string())?;
            let sent = cluster.send(member, request).await;
            let response = sent.map_err(|error| error.to_string())?;
            match response.status() {
                StatusCode::OK => Ok(Self {
                    body: response.into_body(),
                    read: BytesMut::new(),
                }),
                status => Err(format!("it answered {status}")),
            }
        };
        match opened.await {
            Ok(log) => Some(log),
            Err(why) => {
                tracing::debug!(member, why, "a gateway did not show the log of a function");
                None
            }
        }
    }

    /// What it says next; none at its end.
    async fn next(&mut self) -> Option<News> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                return serde_json::from_slice(&line).ok();
            }
            if self.read.len() > LONGEST {
                return None;
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }

    /// The lines that there are.
    async fn tail(&mut self, limit: usize) -> Vec<Arc<LogEntry>> {
        let mut tail = Vec::new();
        while tail.len() < limit
            && let Some(News::Line(entry)) = self.next().await
        {
            tail.push(Arc::new(entry));
        }
        tail
    }
}

impl Sharing {
    /// The last lines of a function at each other gateway, and, where somebody follows, what comes of
    /// them; a gateway that does not answer in time is missing in the former.
    pub(crate) async fn logs(
        &self,
        wanted: &Wanted,
    ) -> (Vec<Vec<Arc<LogEntry>>>, Option<mpsc::Receiver<News>>) {
        let view = self.cluster.view();
        let asked = view.others().map(|(member, _)| async {
            let read = async {
                let mut log = Log::open(&self.cluster, member, wanted).await?;
                let tail = log.tail(wanted.limit).await;
                Some((Arc::clone(member), tail, log))
            };
            timeout(FOLLOWING, read).await.ok().flatten()
        });
        let (mut tails, mut open) = (Vec::new(), Vec::new());
        for (member, tail, log) in join_all(asked).await.into_iter().flatten() {
            tails.push(tail);
            open.push((member, log));
        }
        let live = wanted.follow.then(|| {
            let (sender, live) = mpsc::channel(WAITING);
            let follow = follow(self.clone(), wanted.clone(), open, sender);
            self.runtime.spawn(follow);
            live
        });
        (tails, live)
    }
}

/// Follows the logs of all other gateways, also of those that come, for as long as somebody listens.
async fn follow(
    sharing: Sharing,
    wanted: Wanted,
    open: Vec<(Arc<str>, Log)>,
    sender: mpsc::Sender<News>,
) {
    // What is there of gateways that come was written before they came.
    let wanted = Wanted { limit: 0, ..wanted };
    let mut changes = sharing.changes();
    let mut followed: HashSet<Arc<str>> =
        open.iter().map(|(member, _)| Arc::clone(member)).collect();
    let mut reading = JoinSet::new();
    for (member, log) in open {
        reading.spawn(pass_on(member, log, sender.clone()));
    }
    loop {
        for (member, _) in sharing.cluster.view().others() {
            if followed.insert(Arc::clone(member)) {
                let (sharing, wanted) = (sharing.clone(), wanted.clone());
                let (member, sender) = (Arc::clone(member), sender.clone());
                reading.spawn(async move {
                    match Log::open(&sharing.cluster, &member, &wanted).await {
                        Some(log) => pass_on(member, log, sender).await,
                        None => member,
                    }
                });
            }
        }
        tokio::select! {
            biased;
            () = sender.closed() => return,
            // It lives as long as the gateway.
            _ = changes.changed() => {}
            Some(ended) = reading.join_next() => {
                sleep(PAUSE).await;
                if let Ok(member) = ended {
                    followed.remove(&member);
                }
            }
        }
    }
}

/// Passes on what a gateway says, until it ends. Whose it was.
async fn pass_on(member: Arc<str>, mut log: Log, sender: mpsc::Sender<News>) -> Arc<str> {
    while let Some(news) = log.next().await {
        if matches!(news, News::Now) {
            continue;
        }
        if sender.send(news).await.is_err() {
            break;
        }
    }
    member
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time: &str, text: &str) -> Arc<LogEntry> {
        Arc::new(LogEntry {
            time: time.to_owned(),
            version: "latest".to_owned(),
            instance: "i".to_owned(),
            request: None,
            stream: "stdout".to_owned(),
            text: text.to_owned(),
        })
    }

    #[test]
    fn logs_are_merged_by_time_and_the_last_lines_stay() {
        let at = |second: u32| format!("2026-01-01 00:00:0{second}.000 UTC");
        let here = vec![entry(&at(1), "a"), entry(&at(3), "c"), entry(&at(3), "d")];
        let there = vec![entry(&at(2), "b"), entry(&at(4), "e")];
        let texts = |limit| -> String {
            let merged = merge(vec![here.clone(), there.clone()], limit);
            merged.iter().map(|entry| entry.text.as_str()).collect()
        };
        assert_eq!(texts(9), "abcde");
        assert_eq!(texts(3), "cde");
        assert_eq!(texts(0), "");
    }
}
