//! Container images: the operator's routes to them, typed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bugle_api::images::{
    ImageList, ImageObject, LoadAnswer, LoginRequest, PruneRequest, PullRequest, RegistryList,
    RemovedImages,
};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use crate::control::{parse, refusal, segment};
use crate::{Base, Call, Control, Error, Operation};

const IMAGES: &str = "/bugle/v1/images";
const REGISTRIES: &str = "/bugle/v1/registries";

/// How long an archive of ten gigabytes may take to travel and to be unpacked.
const LOADING: Duration = Duration::from_hours(1);

/// How long a registry may take to be asked about a login, several times where it is slow.
const LOGIN: Duration = Duration::from_mins(3);

/// What is read of a file at once.
const PIECE: usize = 256 << 10;

impl Control {
    /// The images, and the pulls that run.
    pub fn images(&self) -> Operation<ImageList> {
        self.get(IMAGES.to_owned())
    }

    /// Pulls an image. The answer is read as it comes, line by line, see [`Operation::open`].
    pub fn pull_image(&self, reference: &str) -> Operation<()> {
        let request = PullRequest {
            reference: reference.to_owned(),
        };
        let call = self.call(Method::POST, IMAGES.to_owned(), Some(&request));
        self.operation(call, |_| Ok(()))
    }

    /// Removes a name or an image.
    pub fn remove_image(&self, name: &str) -> Operation<RemovedImages> {
        let path = format!("{IMAGES}?name={}", segment(name));
        let call = self.call(Method::DELETE, path, None::<&()>);
        self.operation(call, parse)
    }

    /// Removes what is not needed.
    pub fn prune_images(&self, request: &PruneRequest) -> Operation<RemovedImages> {
        let path = format!("{IMAGES}/prune");
        let call = self.call(Method::POST, path, Some(request));
        self.operation(call, parse)
    }

    /// Sends an archive of images, which shall be called `name`.
    pub fn load_images(&self, name: Option<&str>) -> Upload {
        let path = match name {
            Some(name) => format!("{IMAGES}/archive?name={}", segment(name)),
            None => format!("{IMAGES}/archive"),
        };
        let mut call = self.call(Method::POST, path, None::<&()>);
        let kind = HeaderValue::from_static("application/x-tar");
        call.headers.insert(CONTENT_TYPE, kind);
        call.limit = LOADING;
        Upload {
            base: self.base.clone(),
            call,
        }
    }

    /// Keeps credentials for a registry.
    pub fn log_in(&self, request: &LoginRequest) -> Operation<()> {
        let mut call = self.call(Method::PUT, REGISTRIES.to_owned(), Some(request));
        call.limit = LOGIN;
        self.operation(call, |_| Ok(()))
    }

    /// Forgets the credentials for a registry.
    pub fn log_out(&self, registry: &str) -> Operation<()> {
        let path = format!("{REGISTRIES}?registry={}", segment(registry));
        let call = self.call(Method::DELETE, path, None::<&()>);
        self.operation(call, |_| Ok(()))
    }

    /// The registries for which there are credentials.
    pub fn registries(&self) -> Operation<RegistryList> {
        self.get(REGISTRIES.to_owned())
    }
}

/// The sending of an archive.
#[derive(Debug)]
#[must_use = "nothing happens before it is sent"]
pub struct Upload {
    /// Where it goes.
    pub base: Base,
    /// The request without its body.
    pub call: Call,
}

impl Upload {
    /// Sends the file piece by piece, and counts in `sent` what is on its way.
    ///
    /// # Errors
    ///
    /// As [`Operation::send`]; [`Error::File`] when the file cannot be read.
    pub async fn send(
        mut self,
        file: File,
        sent: Arc<AtomicU64>,
    ) -> Result<Vec<ImageObject>, Error> {
        let entry = file.metadata().await.map_err(Error::File)?;
        // What a pipe will bring is not known before.
        if entry.is_file() {
            self.call.headers.insert(CONTENT_LENGTH, entry.len().into());
        }
        let pieces = stream::try_unfold((file, sent), async |(mut file, sent)| {
            let mut piece = BytesMut::with_capacity(PIECE);
            let length = file.read_buf(&mut piece).await?;
            if length == 0 {
                return Ok::<_, io::Error>(None);
            }
            sent.fetch_add(length as u64, Ordering::Relaxed);
            let frame: Frame<Bytes> = Frame::data(piece.freeze());
            Ok(Some((frame, (file, sent))))
        });
        let answer = self
            .base
            .send_body(self.call, StreamBody::new(pieces))
            .await?;
        let status = answer.status;
        let body = answer.bytes().await?;
        if !status.is_success() {
            return Err(refusal(&self.base, status.as_u16(), &body));
        }
        let answer: LoadAnswer = parse(&body).map_err(|source| Error::Unexpected {
            base: self.base.to_string(),
            status: status.as_u16(),
            source: Some(source),
        })?;
        Ok(answer.images)
    }
}
