//! The control API, typed.

use std::time::Duration;

use bugle_api::operator::{FunctionStatus, Info, PackageInfo, PackageList};
use bugle_api::{
    ErrorBody, FunctionAnswer, FunctionListAnswer, FunctionObject, FunctionPage, FunctionRequest,
    PublishRequest, ReservationAnswer, ReservationList, ReservationRequest, UpdateAnswer,
};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Answer, Base, Call, Error, upload};

/// How long the control API may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// How long an upload may take until it is answered, its unpacking included.
const UPLOAD: Duration = Duration::from_mins(15);

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
    pub(crate) fn call<B: Serialize>(
        &self,
        method: Method,
        path: String,
        body: Option<&B>,
    ) -> Call {
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

    pub(crate) fn operation<T>(&self, call: Call, read: Read<T>) -> Operation<T> {
        Operation {
            base: self.base.clone(),
            call,
            read,
        }
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: String) -> Operation<T> {
        let call = self.call(Method::GET, path, None::<&()>);
        self.operation(call, parse::<T>)
    }

    /// What the platform is.
    pub fn info(&self) -> Operation<Info> {
        self.get("/bugle/v1/info".to_owned())
    }

    /// F1.
    pub fn register(&self, request: &FunctionRequest) -> Operation<FunctionObject> {
        let call = self.call(Method::POST, FUNCTIONS.to_owned(), Some(request));
        self.operation(call, |body| {
            parse(body).map(|answer: FunctionAnswer| answer.function)
        })
    }

    /// F2.
    pub fn update(&self, name: &str, request: &FunctionRequest) -> Operation<FunctionObject> {
        let call = self.call(Method::PUT, function_path(name), Some(request));
        self.operation(call, |body| {
            parse(body).map(|answer: UpdateAnswer| answer.function)
        })
    }

    /// F3.
    pub fn publish(&self, name: &str, request: &PublishRequest) -> Operation<FunctionObject> {
        let path = format!("{}/versions", function_path(name));
        let call = self.call(Method::POST, path, Some(request));
        self.operation(call, |body| {
            parse(body).map(|answer: FunctionAnswer| answer.function)
        })
    }

    /// F4; the draft without a version.
    pub fn function(&self, name: &str, version: Option<&str>) -> Operation<FunctionObject> {
        let path = versioned(function_path(name), version);
        let call = self.call(Method::GET, path, None::<&()>);
        self.operation(call, |body| {
            parse(body).map(|answer: FunctionAnswer| answer.function)
        })
    }

    /// F5.
    pub fn versions(&self, name: &str) -> Operation<Vec<FunctionObject>> {
        let path = format!("{}/versions", function_path(name));
        let call = self.call(Method::GET, path, None::<&()>);
        self.operation(call, |body| {
            parse(body).map(|page: FunctionPage| page.functions.unwrap_or_default())
        })
    }

    /// F6: one page, and how many there are in all.
    pub fn list(
        &self,
        part: Option<&str>,
        page: usize,
        size: usize,
    ) -> Operation<(Vec<FunctionObject>, usize)> {
        let mut path = format!("{FUNCTIONS}?pageIndex={page}&pageSize={size}");
        if let Some(part) = part {
            path.push_str("&name=");
            path.extend(utf8_percent_encode(part, SEGMENT));
        }
        let call = self.call(Method::GET, path, None::<&()>);
        self.operation(call, |body| {
            let list = parse::<FunctionListAnswer>(body)?.result;
            Ok((list.functions.unwrap_or_default(), list.total))
        })
    }

    /// F7: one version, or the function.
    pub fn delete(&self, name: &str, version: Option<&str>) -> Operation<()> {
        let path = versioned(function_path(name), version);
        let call = self.call(Method::DELETE, path, None::<&()>);
        self.operation(call, |body| parse::<serde_json::Value>(body).map(drop))
    }

    /// R1.
    pub fn reserve(&self, request: &ReservationRequest) -> Operation<ReservationAnswer> {
        let call = self.call(Method::POST, reservations_path(), Some(request));
        self.operation(call, parse)
    }

    /// R3.
    pub fn reservations(&self, request: &ReservationRequest) -> Operation<ReservationList> {
        let call = self.call(Method::GET, reservations_path(), Some(request));
        self.operation(call, parse)
    }

    /// R4.
    pub fn delete_reservation(&self, request: &ReservationRequest) -> Operation<()> {
        let call = self.call(Method::DELETE, reservations_path(), Some(request));
        self.operation(call, |body| parse::<ErrorBody>(body).map(drop))
    }

    /// How a function runs at this moment.
    pub fn status(&self, name: &str, version: Option<&str>) -> Operation<FunctionStatus> {
        let path = format!("/bugle/v1/functions/{}/status", segment(name));
        self.get(versioned(path, version))
    }

    /// The last lines of a function's log; with `follow` as events that go on. Its answer is read
    /// as it comes, see [`Operation::open`].
    pub fn logs(
        &self,
        name: &str,
        tail: usize,
        request: Option<&str>,
        follow: bool,
    ) -> Operation<()> {
        let mut path = format!(
            "/bugle/v1/functions/{}/logs?tail={tail}&follow={follow}",
            segment(name)
        );
        if let Some(request) = request {
            path.push_str("&request=");
            path.extend(utf8_percent_encode(request, SEGMENT));
        }
        let call = self.call(Method::GET, path, None::<&()>);
        self.operation(call, |_| Ok(()))
    }
}

impl Control {
    /// Whether the tenant has uploaded a package of this digest, as far as one can tell.
    ///
    /// # Errors
    ///
    /// [`Error`]; that there is none is not one.
    pub async fn has_package(&self, sha512: &str) -> Result<bool, Error> {
        let call = self.call(Method::HEAD, package_path(sha512), None::<&()>);
        let answer = self.base.send(call).await?;
        match answer.status.as_u16() {
            200 => Ok(true),
            404 => Ok(false),
            status => Err(Error::Unexpected {
                base: self.base.to_string(),
                status,
                source: None,
            }),
        }
    }

    /// Uploads a package of this digest and length, without having it in memory. `sent` is told how
    /// many bytes have been sent.
    ///
    /// # Errors
    ///
    /// As [`Operation::send`].
    pub async fn upload(
        &self,
        sha512: &str,
        file: std::fs::File,
        bytes: u64,
        sent: impl Fn(u64) + Send + 'static,
    ) -> Result<PackageInfo, Error> {
        let mut call = self.call(Method::PUT, package_path(sha512), None::<&()>);
        call.limit = UPLOAD;
        call.headers.insert(CONTENT_LENGTH, bytes.into());
        let answer = self.base.send_body(call, upload::body(file, sent)).await?;
        let answer = checked(&self.base, answer).await?;
        let status = answer.status.as_u16();
        parse(&answer.bytes().await?).map_err(|source| Error::Unexpected {
            base: self.base.to_string(),
            status,
            source: Some(source),
        })
    }

    /// The uploaded packages of the tenant.
    pub fn packages(&self) -> Operation<PackageList> {
        self.get("/bugle/v1/packages".to_owned())
    }

    /// Removes an uploaded package.
    pub fn delete_package(&self, sha512: &str) -> Operation<()> {
        let call = self.call(Method::DELETE, package_path(sha512), None::<&()>);
        self.operation(call, |_| Ok(()))
    }

    /// The bytes of an uploaded package, to be read as they come, see [`Operation::open`].
    pub fn package(&self, sha512: &str) -> Operation<()> {
        let call = self.call(Method::GET, package_path(sha512), None::<&()>);
        self.operation(call, |_| Ok(()))
    }
}

fn package_path(sha512: &str) -> String {
    format!("/bugle/v1/packages/{}", segment(sha512))
}

pub(crate) type Read<T> = fn(&[u8]) -> Result<T, serde_json::Error>;

/// An operation of the control API, ready to be sent or shown.
#[derive(Debug)]
#[must_use = "nothing happens before it is sent"]
pub struct Operation<T> {
    /// Where it goes.
    pub base: Base,
    /// The request.
    pub call: Call,
    read: Read<T>,
}

impl<T> Operation<T> {
    /// Sends it and reads its answer.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with what the platform said, and the others.
    pub async fn send(self) -> Result<T, Error> {
        let Self { base, call, read } = self;
        let answer = accepted(&base, call).await?;
        let status = answer.status.as_u16();
        read(&answer.bytes().await?).map_err(|source| Error::Unexpected {
            base: base.to_string(),
            status,
            source: Some(source),
        })
    }

    /// Sends it and leaves the answer to be read piece by piece.
    ///
    /// # Errors
    ///
    /// As [`Operation::send`].
    pub async fn open(self) -> Result<Answer, Error> {
        accepted(&self.base, self.call).await
    }
}

/// Sends a request whose answer says that it was carried out.
async fn accepted(base: &Base, call: Call) -> Result<Answer, Error> {
    let answer = base.send(call).await?;
    checked(base, answer).await
}

/// The answer, if it says that the request was carried out.
async fn checked(base: &Base, answer: Answer) -> Result<Answer, Error> {
    let status = answer.status;
    if status.is_success() {
        return Ok(answer);
    }
    Err(refusal(base, status.as_u16(), &answer.bytes().await?))
}

pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body)
}

/// The path under which a function is called, by its URN.
pub fn invocation_path(urn: &str) -> String {
    format!("{FUNCTIONS}/{}/invocations", segment(urn))
}

/// The path of a function.
fn function_path(name: &str) -> String {
    format!("{FUNCTIONS}/{}", segment(name))
}

fn reservations_path() -> String {
    format!("{FUNCTIONS}/reserve-instance")
}

pub(crate) fn segment(name: &str) -> String {
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

pub(crate) fn refusal(base: &Base, status: u16, body: &[u8]) -> Error {
    match serde_json::from_slice(body) {
        Ok(ErrorBody { code, message }) => Error::Refused {
            status,
            code,
            message,
        },
        // A proxy, or another program altogether.
        Err(_) => Error::Unexpected {
            base: base.to_string(),
            status,
            source: None,
        },
    }
}
