//! Registering and calling functions.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::{Map, Value, json};

use crate::{Answer, Platform, eventually};

/// The body of a registration.
#[derive(Clone, Debug)]
pub struct FunctionSpec {
    fields: Map<String, Value>,
}

/// A function that was registered, as the platform answered.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// Its URN with the version.
    pub urn: String,
    /// What an update has to quote.
    pub revision: String,
}

impl FunctionSpec {
    /// A Python function whose handler is `index.handler` in `folder`, with one call at a time.
    /// The interpreter is chosen when it is registered.
    pub fn python(name: &str, folder: &Path) -> Self {
        let fields = json!({
            "name": name,
            "kind": "faas",
            "handler": "index.handler",
            "cpu": 300,
            "memory": 128,
            "timeout": 30,
            "minInstance": "0",
            "maxInstance": "10",
            "concurrentNum": "1",
            "storageType": "local",
            "codePath": folder,
        });
        let Value::Object(fields) = fields else {
            unreachable!("an object literal is an object");
        };
        Self { fields }
    }

    /// A function whose program is `bootstrap` in `folder`, with one call at a time.
    #[must_use]
    pub fn program(name: &str, runtime: &str, folder: &Path) -> Self {
        Self::python(name, folder)
            .with("runtime", runtime)
            .with("handler", "bootstrap")
    }

    /// Sets a field of the body.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(field.to_owned(), value.into());
        self
    }

    /// The body.
    pub fn body(&self) -> Value {
        Value::Object(self.fields.clone())
    }

    fn on(&self, runtime: String) -> Self {
        match self.fields.get("runtime") {
            Some(_) => self.clone(),
            None => self.clone().with("runtime", runtime),
        }
    }
}

impl Registered {
    fn from(function: &Value) -> Self {
        let text = |field: &str| function[field].as_str().unwrap_or_default().to_owned();
        Self {
            name: text("name"),
            urn: text("functionVersionUrn"),
            revision: text("revisionId"),
        }
    }

    /// The path of the call route.
    pub fn path(&self) -> String {
        format!("/serverless/v1/functions/{}/invocations", self.urn)
    }

    /// The request that calls it with a JSON body.
    ///
    /// # Panics
    /// When a header is not well formed.
    pub fn request(&self, body: &str, headers: &[(&str, &str)]) -> Request<Bytes> {
        let mut request = Request::post(self.path()).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
            .body(Bytes::copy_from_slice(body.as_bytes()))
            .expect("URNs and headers of tests are well formed")
    }
}

impl Platform {
    /// The Python that tests use: 3.11 where the machine has it, else the newest there is.
    ///
    /// # Panics
    /// When the machine has none.
    pub async fn python(&self) -> String {
        let info = self.control.get("/bugle/v1/info").await.expect(200).json();
        let runtimes = info["runtimes"].as_array().cloned().unwrap_or_default();
        let minor = |name: &str| {
            name.strip_prefix("python3.")
                .and_then(|n| n.parse::<u8>().ok())
        };
        let found = runtimes
            .iter()
            .filter_map(|runtime| minor(runtime["name"].as_str()?))
            .max_by_key(|&minor| (minor == 11, minor));
        let minor = found.expect("these tests need a Python 3 interpreter");
        format!("python3.{minor}")
    }

    /// Registers a function.
    ///
    /// # Panics
    /// When the platform refuses.
    pub async fn register(&self, spec: &FunctionSpec) -> Registered {
        let answer = self.try_register(spec).await;
        Registered::from(&answer.expect(200).json()["function"])
    }

    /// Registers a function, if the platform does it.
    pub async fn try_register(&self, spec: &FunctionSpec) -> Answer {
        let body = spec.on(self.python().await).body();
        self.control.post("/serverless/v1/functions", &body).await
    }

    /// Updates a function from the revision that `function` knows, which becomes the new one.
    ///
    /// # Panics
    /// When the platform refuses.
    pub async fn update(&self, function: &mut Registered, spec: &FunctionSpec) {
        let body = spec.clone().with("revisionId", function.revision.clone());
        let path = format!("/serverless/v1/functions/{}", function.name);
        let answer = self.control.put(&path, &body.body()).await;
        *function = Registered::from(&answer.expect(200).json()["function"]);
    }

    /// Calls a function with a JSON body; an empty one is allowed.
    ///
    /// # Panics
    /// When there is no answer at all.
    pub async fn invoke(&self, function: &Registered, body: &str) -> Answer {
        self.try_invoke(function, body, &[])
            .await
            .expect("a call is answered")
    }

    /// Calls a function with a JSON body and further headers.
    ///
    /// # Errors
    /// When there is no answer: what happened, in words.
    pub async fn try_invoke(
        &self,
        function: &Registered,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, String> {
        self.gateway.send(function.request(body, headers)).await
    }

    /// What the platform says about a function version as it runs now.
    ///
    /// # Panics
    /// When it does not know the function.
    pub async fn status(&self, function: &Registered) -> Value {
        let path = format!("/bugle/v1/functions/{}/status", function.name);
        self.control.get(&path).await.expect(200).json()
    }

    /// Waits until calls of a function run in so many of its instances.
    ///
    /// # Panics
    /// When they do not within a minute.
    pub async fn until_called(&self, function: &Registered, instances: usize) {
        eventually("the calls run", Duration::from_mins(1), async || {
            let status = self.status(function).await;
            let all = status["instances"].as_array().into_iter().flatten();
            let called = all.filter(|instance| instance["in_flight"] == 1);
            (called.count() >= instances)
                .then_some(())
                .ok_or_else(|| status.to_string())
        })
        .await;
    }

    /// The processes of a function's instances.
    pub async fn instance_pids(&self, function: &Registered) -> Vec<u32> {
        let status = self.status(function).await;
        let instances = status["instances"].as_array().cloned().unwrap_or_default();
        let pid = |instance: &Value| instance["pid"].as_u64().and_then(|pid| pid.try_into().ok());
        instances.iter().filter_map(pid).collect()
    }
}
