//! The control API, typed.

use std::time::Duration;

use bugle_api::operator::{FunctionStatus, Info};
use bugle_api::{
    ErrorBody, FunctionAnswer, FunctionListAnswer, FunctionObject, FunctionPage, FunctionRequest,
    PublishRequest, ReservationAnswer, ReservationList, ReservationRequest, UpdateAnswer,
};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Answer, Base, Call, Error};

/// How long the control API may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Everything that names of functions are made of stays readable.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'@')
    .remove(b'-')
    .remove(b'.')
    .remove(b':')
    .remove(b'_')
    .remove(b'$');

const FUNCTIONS: &str = "/serverless/v1/functions";

/// A client of the control API, for one tenant.
#[derive(Clone, Debug)]
pub struct Control {
    /// Where it is.
    pub base: Base,
    /// On whose behalf requests are made; `default` when none is named.
    pub tenant: Option<HeaderValue>,
}

impl Control {
    /// Builds the request of an operation, to be sent or shown.
    pub fn call<B: Serialize>(&self, method: Method, path: String, body: Option<&B>) -> Call {
        let mut headers = HeaderMap::new();
        if let Some(tenant) = &self.tenant {
            headers.insert("x-tenant-id", tenant.clone());
        }
        let body = body.map(|body| {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            serde_json::to_vec(body).expect("wire shapes are made of JSON values")
        });
        Call {
            method,
            path,
            headers,
            body: body.unwrap_or_default().into(),
            limit: LIMIT,
        }
    }

    /// Sends a request and reads its JSON answer.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with what the platform said, and the others.
    pub async fn send<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        let answer = self.base.send(call).await?;
        let status = answer.status;
        let body = answer.bytes().await?;
        if !status.is_success() {
            return Err(refusal(status.as_u16(), &body));
        }
        serde_json::from_slice(&body).map_err(|source| Error::Unexpected {
            base: self.base.to_string(),
            source,
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: String) -> Result<T, Error> {
        self.send(self.call(Method::GET, path, None::<&()>)).await
    }

    /// What the platform is.
    pub async fn info(&self) -> Result<Info, Error> {
        self.get("/bugle/v1/info".to_owned()).await
    }

    /// F1.
    pub async fn register(&self, request: &FunctionRequest) -> Result<FunctionObject, Error> {
        let call = self.call(Method::POST, FUNCTIONS.to_owned(), Some(request));
        self.send::<FunctionAnswer>(call)
            .await
            .map(|answer| answer.function)
    }

    /// F2.
    pub async fn update(
        &self,
        name: &str,
        request: &FunctionRequest,
    ) -> Result<FunctionObject, Error> {
        let call = self.call(Method::PUT, function_path(name), Some(request));
        self.send::<UpdateAnswer>(call)
            .await
            .map(|answer| answer.function)
    }

    /// F3.
    pub async fn publish(
        &self,
        name: &str,
        request: &PublishRequest,
    ) -> Result<FunctionObject, Error> {
        let path = format!("{}/versions", function_path(name));
        let call = self.call(Method::POST, path, Some(request));
        self.send::<FunctionAnswer>(call)
            .await
            .map(|answer| answer.function)
    }

    /// F4; the draft without a version.
    pub async fn function(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<FunctionObject, Error> {
        let answer = self
            .get::<FunctionAnswer>(versioned(function_path(name), version))
            .await?;
        Ok(answer.function)
    }

    /// F5.
    pub async fn versions(&self, name: &str) -> Result<Vec<FunctionObject>, Error> {
        let path = format!("{}/versions", function_path(name));
        Ok(self
            .get::<FunctionPage>(path)
            .await?
            .functions
            .unwrap_or_default())
    }

    /// F6: one page, and how many there are in all.
    pub async fn list(
        &self,
        part: Option<&str>,
        page: usize,
        size: usize,
    ) -> Result<(Vec<FunctionObject>, usize), Error> {
        let mut path = format!("{FUNCTIONS}?pageIndex={page}&pageSize={size}");
        if let Some(part) = part {
            path.push_str("&name=");
            path.extend(utf8_percent_encode(part, SEGMENT));
        }
        let list = self.get::<FunctionListAnswer>(path).await?.result;
        Ok((list.functions.unwrap_or_default(), list.total))
    }

    /// F7: one version, or the function.
    pub async fn delete(&self, name: &str, version: Option<&str>) -> Result<(), Error> {
        let path = versioned(function_path(name), version);
        let call = self.call(Method::DELETE, path, None::<&()>);
        self.send::<serde_json::Value>(call).await.map(drop)
    }

    /// R1.
    pub async fn reserve(&self, request: &ReservationRequest) -> Result<ReservationAnswer, Error> {
        self.send(self.call(Method::POST, reservations_path(), Some(request)))
            .await
    }

    /// R3.
    pub async fn reservations(
        &self,
        request: &ReservationRequest,
    ) -> Result<ReservationList, Error> {
        self.send(self.call(Method::GET, reservations_path(), Some(request)))
            .await
    }

    /// R4.
    pub async fn delete_reservation(&self, request: &ReservationRequest) -> Result<(), Error> {
        let call = self.call(Method::DELETE, reservations_path(), Some(request));
        self.send::<ErrorBody>(call).await.map(drop)
    }

    /// How a function runs at this moment.
    pub async fn status(&self, name: &str, version: Option<&str>) -> Result<FunctionStatus, Error> {
        let path = format!("/bugle/v1/functions/{}/status", segment(name));
        self.get(versioned(path, version)).await
    }

    /// The last lines of a function's log; with `follow` as events that go on.
    pub async fn logs(
        &self,
        name: &str,
        tail: usize,
        request: Option<&str>,
        follow: bool,
    ) -> Result<Answer, Error> {
        let mut path = format!(
            "/bugle/v1/functions/{}/logs?tail={tail}&follow={follow}",
            segment(name)
        );
        if let Some(request) = request {
            path.push_str("&request=");
            path.extend(utf8_percent_encode(request, SEGMENT));
        }
        let answer = self
            .base
            .send(self.call(Method::GET, path, None::<&()>))
            .await?;
        let status = answer.status;
        if status.is_success() {
            return Ok(answer);
        }
        Err(refusal(status.as_u16(), &answer.bytes().await?))
    }
}

/// The path of a function.
fn function_path(name: &str) -> String {
    format!("{FUNCTIONS}/{}", segment(name))
}

fn reservations_path() -> String {
    format!("{FUNCTIONS}/reserve-instance")
}

fn segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

fn versioned(path: String, version: Option<&str>) -> String {
    match version {
        Some(version) => {
            format!(
                "{path}?versionNumber={}",
                utf8_percent_encode(version, SEGMENT)
            )
        }
        None => path,
    }
}

fn refusal(status: u16, body: &Bytes) -> Error {
    let Ok(ErrorBody { code, message }) = serde_json::from_slice(body) else {
        let text = String::from_utf8_lossy(body);
        let message = text.trim().chars().take(500).collect();
        return Error::Refused {
            status,
            code: u32::from(status),
            message,
        };
    };
    Error::Refused {
        status,
        code,
        message,
    }
}
