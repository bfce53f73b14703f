//! Packages that were uploaded to another gateway: fetched when a function needs them, once.

use bugle_artifacts::{Packages, Sha512, UPLOADED};
use bugle_cluster::Cluster;
use bugle_instances::StartError;
use bugle_node::GATEWAY;
use bugle_types::{CodeLocation, FunctionSpec, TenantId, report};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, BodyStream, Empty};
use tokio::io;

/// The path of packages at other gateways: `/packages/{tenant}/{sha512}`.
pub(super) const PACKAGES: &str = "/packages/";

/// The packages here, and those of the other gateways.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    pub(super) packages: Packages,
    pub(super) cluster: Cluster,
}

impl Peers {
    /// Makes sure that the code of a function is here, if it was uploaded.
    pub(super) async fn prepare(&self, spec: &FunctionSpec) -> Result<(), StartError> {
        let CodeLocation::S3 {
            object, endpoint, ..
        } = &spec.code
        else {
            return Ok(());
        };
        if endpoint != UPLOADED {
            return Ok(());
        }
        let Ok(digest) = object.parse::<Sha512>() else {
            return Ok(());
        };
        let tenant = &spec.id.tenant;
        if self.packages.uploads().find(tenant, &digest).await.is_ok() {
            return Ok(());
        }
        // Where none has it, the driver says what is missing.
        for (other, _) in self.cluster.view().others() {
            match self.fetch(other, tenant, &digest).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(why) => {
                    tracing::warn!(member = &**other, why, "a package was not fetched");
                }
            }
        }
        Ok(())
    }

    /// Fetches a package from a gateway, if it has it. What arrives is checked by its digest.
    async fn fetch(&self, other: &str, tenant: &TenantId, digest: &Sha512) -> Result<bool, String> {
        let uri = format!("https://{GATEWAY}{PACKAGES}{tenant}/{digest}");
        let request = Request::get(uri).body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let sent = self.cluster.send(other, request).await;
        let response = sent.map_err(|error| error.to_string())?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(false),
            status => return Err(format!("it answered {status}")),
        }
        let chunks = BodyStream::new(response.into_body()).filter_map(|frame| async {
            match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(io::Error::other(error))),
            }
        });
        let uploads = self.packages.uploads();
        let stored = uploads.put(tenant, Some(digest), Box::pin(chunks)).await;
        stored.map(|_| true).map_err(|error| report(&error))
    }

    /// A package for another gateway.
    pub(super) async fn answer(packages: &Packages, path: &str) -> Option<super::port::Body> {
        let (tenant, digest) = path.split_once('/')?;
        let tenant: TenantId = tenant.parse().ok()?;
        let digest: Sha512 = digest.parse().ok()?;
        let (_, chunks) = packages.uploads().get(&tenant, &digest).await.ok()?;
        let frames = chunks.map(|chunk| chunk.map(hyper::body::Frame::data));
        let body = http_body_util::StreamBody::new(frames);
        Some(super::port::Body::new(body.map_err(Into::into)))
    }
}
