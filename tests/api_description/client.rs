//! A client that knows the API from its description alone, and notes which answers it has seen.

use std::collections::BTreeSet;

use bugle_testkit::{Answer, Endpoint};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::Value;

use crate::schema;

/// Sends requests and compares each answer with its description.
pub(crate) struct Client<'a> {
    document: &'a Value,
    control: Endpoint,
    tenant: String,
    /// Operation and status.
    seen: BTreeSet<String>,
}

impl<'a> Client<'a> {
    pub(crate) fn new(document: &'a Value, control: Endpoint) -> Self {
        Self {
            document,
            control,
            tenant: String::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Makes the next requests as a tenant; the empty one is the default.
    pub(crate) fn as_tenant(&mut self, tenant: &str) -> &mut Self {
        tenant.clone_into(&mut self.tenant);
        self
    }

    /// A request without a body. `target` is the name that the path holds, if it does, and the query.
    pub(crate) async fn ask(&mut self, operation: &str, target: &str, status: u16) -> Value {
        self.request(operation, target, Bytes::new(), status).await
    }

    /// A request with a JSON body.
    pub(crate) async fn send(
        &mut self,
        operation: &str,
        target: &str,
        body: &Value,
        status: u16,
    ) -> Value {
        let body = Bytes::from(body.to_string());
        self.request(operation, target, body, status).await
    }

    /// A request with any body.
    pub(crate) async fn request(
        &mut self,
        id: &str,
        target: &str,
        body: Bytes,
        status: u16,
    ) -> Value {
        let (method, path, operation) = operations(self.document)
            .find(|(_, _, operation)| operation["operationId"] == id)
            .unwrap_or_else(|| panic!("{id} is not described"));
        let (name, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        let request = Request::builder()
            .method(method.to_uppercase().parse::<Method>().unwrap())
            .uri(
                path.replace("{name}", name)
                    .replace("{id}", name)
                    .replace("{sha512}", name)
                    .replace("{project_id}", "default")
                    + query,
            )
            .header("x-tenant-id", &self.tenant)
            .body(body)
            .unwrap();
        let answer = self.control.send(request).await.unwrap();
        let which = format!("{id} {target}");
        assert_eq!(answer.status, status, "{which}: {}", answer.text());
        let described = &operation["responses"][status.to_string()];
        assert!(described.is_object(), "{which}: {status} is not described");
        self.seen.insert(format!("{id} {status}"));
        self.compare(&which, described, &answer)
    }

    /// The body of an answer that is as described.
    fn compare(&self, which: &str, described: &Value, answer: &Answer) -> Value {
        let Some(content) = described["content"].as_object() else {
            return Value::Null;
        };
        let (media, content) = content.iter().next().expect("a content has a type");
        let found = answer.header("content-type");
        assert!(found.starts_with(media), "{which} is {found}, not {media}");
        if !media.ends_with("json") {
            return Value::Null;
        }
        let text = answer.text();
        // Of several objects, one a line, the first speaks for all.
        let first = text.lines().next().unwrap_or_default();
        let body: Value = serde_json::from_str(first).unwrap_or_else(|_| answer.json());
        let mut wrong = Vec::new();
        schema::check(self.document, &content["schema"], &body, "", &mut wrong);
        assert!(wrong.is_empty(), "{which}: {wrong:#?}\n{text}");
        body
    }

    /// The described answers that no request has brought about.
    pub(crate) fn not_seen(&self) -> Vec<String> {
        let mut missing = BTreeSet::new();
        for (_, _, operation) in operations(self.document) {
            let id = operation["operationId"].as_str().unwrap();
            for status in operation["responses"].as_object().unwrap().keys() {
                missing.insert(format!("{id} {status}"));
            }
        }
        missing.difference(&self.seen).cloned().collect()
    }
}

/// Every operation with its method and path.
pub(crate) fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(|(method, operation)| (method.as_str(), path.as_str(), operation))
    })
}
