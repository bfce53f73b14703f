//! A pull, told to whoever waits for it.

use std::pin::Pin;
use std::time::Duration;

use bugle_api::ErrorBody;
use bugle_api::images::{LayerObject, PullFailure, PullLine, PullObject};
use bugle_images::{ImageError, ImageStore, PullProgress, ReadyImage};

use super::routes::{Refusal, image};

/// How often whoever pulls is told how far it is.
const PROGRESS: Duration = Duration::from_millis(200);

/// How far a pull is, as it is shown.
pub(crate) fn progress(pull: PullProgress) -> PullObject {
    let layers = pull.layers.into_iter().map(|layer| LayerObject {
        digest: layer.digest.to_string(),
        size: layer.size,
        fetched: layer.fetched,
        unpacked: layer.unpacked,
        ready: layer.ready,
    });
    PullObject {
        reference: pull.reference,
        layers: layers.collect(),
    }
}

pub(super) type Pulling = Pin<Box<dyn Future<Output = Result<ReadyImage, ImageError>> + Send>>;

/// Somebody who watches a pull.
pub(super) struct Watch {
    pub(super) store: ImageStore,
    /// How the pull is called in the list of those that run.
    pub(super) shown: String,
    /// None after the end.
    pub(super) pulling: Option<Pulling>,
}

impl Watch {
    /// What there is to tell next; nothing after the end.
    pub(super) async fn next(&mut self) -> Option<PullLine> {
        let pulling = self.pulling.as_mut()?;
        match tokio::time::timeout(PROGRESS, pulling).await {
            Err(_) => Some(PullLine::Progress(self.progress())),
            Ok(ended) => {
                self.pulling = None;
                Some(self.end(ended))
            }
        }
    }

    fn progress(&self) -> PullObject {
        let running = self.store.pulls().into_iter();
        let own = running
            .map(progress)
            .find(|pull| pull.reference == self.shown);
        own.unwrap_or_else(|| PullObject {
            reference: self.shown.clone(),
            layers: Vec::new(),
        })
    }

    fn end(&self, ended: Result<ReadyImage, ImageError>) -> PullLine {
        let found = ended.and_then(|ready| {
            let images = self.store.list().into_iter();
            let found = images
                .map(|one| (one.digest, one))
                .find(|(id, _)| *id == ready.digest);
            found
                .map(|(_, info)| image(info))
                .ok_or_else(|| ImageError::NotHere {
                    name: self.shown.clone(),
                })
        });
        match found {
            Ok(image) => PullLine::Image(image),
            Err(error) => {
                let refusal: Refusal = error.into();
                let ErrorBody { code, message } = refusal.envelope();
                let status = refusal.0;
                PullLine::Error(PullFailure {
                    status: status.as_u16(),
                    code,
                    message,
                })
            }
        }
    }
}
