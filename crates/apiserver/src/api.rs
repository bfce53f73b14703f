//! From a request to its answer.

use std::sync::Arc;

use http::{HeaderMap, Method, header};
use serde_json::{Value, json};

use crate::deletion::{self, Options};
use crate::failure::{Cause, Failure};
use crate::objects::{self, Owners, Write};
use crate::ownership::{Force, Manager};
use crate::request::{Page, Path, Query, Target, target};
use crate::resources::Resource;
use crate::selector::Selector;
use crate::server::Shared;
use crate::store::{Key, Store};
use crate::watching::Watch;
use crate::{discovery, patch, schema, views};

/// A request, read to its end.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// What is sent back.
pub(crate) enum Answer {
    /// One document.
    Document {
        code: u16,
        body: Value,
        warnings: Vec<String>,
        content_type: &'static str,
    },
    /// Changes until the end of the connection.
    Stream(Box<Watch>),
}

fn document(code: u16, body: Value) -> Answer {
    Answer::Document {
        code,
        body,
        warnings: Vec::new(),
        content_type: "application/json",
    }
}

impl Request {
    fn header(&self, name: header::HeaderName) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }

    fn accepts(&self, what: &str) -> bool {
        self.header(header::ACCEPT).contains(what)
    }

    fn write(&self, subresource: Option<&'static str>, dry_run: bool) -> Write {
        let agent = self
            .header(header::USER_AGENT)
            .split(['/', ' '])
            .next()
            .unwrap_or_default();
        let given = self.query.get("fieldManager");
        let name = [given, agent, "unknown"]
            .into_iter()
            .find(|name| !name.is_empty());
        Write {
            manager: Manager {
                name: name.unwrap_or_default().to_owned(),
                subresource: subresource.unwrap_or_default(),
                time: objects::now(),
            },
            dry_run: dry_run || self.query.get("dryRun") == "All",
        }
    }
}

/// Answers a request.
///
/// # Errors
/// What the server says instead.
pub(crate) fn answer(shared: &Arc<Shared>, request: &Request) -> Result<Answer, Failure> {
    let user = {
        let authorization = request.headers.get(header::AUTHORIZATION);
        let authorization = authorization.and_then(|value| value.to_str().ok());
        shared.access.lock().user(authorization)?
    };
    let path = match target(&request.path)? {
        Target::Page(page) => return about(&page, request),
        Target::Objects(path) => path,
    };
    let watching = request.query.is("watch") && !request.query.get("watch").is_empty();
    let verb = verb(&request.method, &path, watching)?;
    user.may(verb, &path)?;
    if verb == "watch" {
        return Watch::begin(shared, path, &request.query)
            .map(|watch| Answer::Stream(Box::new(watch)));
    }
    let mut state = shared.state.lock();
    let store = &mut state.store;
    match (verb, path.subresource) {
        ("list", _) => {
            let list = views::list(store, &path, &request.query)?;
            let wants_table = request.accepts("as=Table");
            Ok(document(
                200,
                if wants_table {
                    views::table(&path, &list)
                } else {
                    list
                },
            ))
        }
        ("deletecollection", _) => delete_all(store, &path, request),
        ("create", Some("eviction")) => {
            let eviction: Value = serde_json::from_slice(&request.body)
                .map_err(|error| Failure::bad_request(error.to_string()))?;
            deletion::evict(store, &key(&path), &eviction).map(|body| document(201, body))
        }
        ("create", _) => create(store, &path, request),
        ("get", Some("scale")) => Ok(document(200, views::scale(get(store, &path)?))),
        ("get", _) => Ok(document(200, views::versioned(&path, get(store, &path)?))),
        ("update", _) => replace(store, &path, request),
        ("patch", _) => patched(store, &path, request),
        ("delete", _) => {
            let options = options(request)?;
            let deleted = deletion::delete(store, path.resource, &key(&path), &options)?;
            Ok(document(200, deletion::answer(path.resource, &deleted)))
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

fn about(page: &Page, request: &Request) -> Result<Answer, Failure> {
    let aggregated =
        request.accepts("APIGroupDiscoveryList") && matches!(page, Page::Core | Page::Groups);
    let body = discovery::page(page, aggregated)?;
    Ok(Answer::Document {
        code: 200,
        body,
        warnings: Vec::new(),
        content_type: if aggregated {
            discovery::AGGREGATED
        } else {
            "application/json"
        },
    })
}

fn verb(method: &Method, path: &Path, watching: bool) -> Result<&'static str, Failure> {
    let one = path.name.is_some();
    let verb = match (method.as_str(), one) {
        ("GET", false) if watching => "watch",
        ("GET", false) => "list",
        ("GET", true) if watching => "watch",
        ("GET", true) => "get",
        ("POST", false) => "create",
        ("POST", true) if path.subresource == Some("eviction") => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) if path.subresource.is_none() => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return Err(Failure::method_not_allowed()),
    };
    Ok(verb)
}

fn key(path: &Path) -> Key {
    let namespace = path.namespace.as_deref().unwrap_or_default();
    Key::new(
        path.resource,
        namespace,
        path.name.as_deref().unwrap_or_default(),
    )
}

fn get<'a>(store: &'a Store, path: &Path) -> Result<&'a Value, Failure> {
    let key = key(path);
    let object = store.get(&key).map(AsRef::as_ref);
    object.ok_or_else(|| Failure::not_found(path.resource, &key.name))
}

fn options(request: &Request) -> Result<Options, Failure> {
    let mut options: Options = if request.body.is_empty() {
        Options::default()
    } else {
        serde_json::from_slice(&request.body)
            .map_err(|error| Failure::bad_request(error.to_string()))?
    };
    if let Some(seconds) = request.query.number("gracePeriodSeconds") {
        options.grace_period_seconds = i64::try_from(seconds).ok();
    }
    let policy = request.query.get("propagationPolicy");
    if !policy.is_empty() {
        options.propagation_policy = Some(policy.to_owned());
    }
    if request.query.get("dryRun") == "All" {
        options.dry_run.push("All".to_owned());
    }
    Ok(options)
}

fn create(store: &mut Store, path: &Path, request: &Request) -> Result<Answer, Failure> {
    let unknown = request.query.field_validation();
    let (object, warnings) = objects::decode(path.resource, &request.body, unknown)?;
    let namespace = path.namespace.as_deref().unwrap_or_default();
    let write = request.write(None, false);
    let mut stored = Value::clone(&*objects::create(
        store,
        path.resource,
        namespace,
        object,
        &write,
    )?);
    if write.dry_run
        && let Some(metadata) = stored["metadata"].as_object_mut()
    {
        metadata.remove("resourceVersion");
    }
    Ok(Answer::Document {
        code: 201,
        body: stored,
        warnings,
        content_type: "application/json",
    })
}

fn replace(store: &mut Store, path: &Path, request: &Request) -> Result<Answer, Failure> {
    if path.subresource == Some("scale") {
        let scale: Value = serde_json::from_slice(&request.body)
            .map_err(|error| Failure::bad_request(error.to_string()))?;
        return rescale(store, path, request, |now| {
            *now = scale;
            Ok(())
        });
    }
    let unknown = request.query.field_validation();
    let (object, warnings) = objects::decode(path.resource, &request.body, unknown)?;
    let key = key(path);
    let given = object["metadata"]["name"].as_str().unwrap_or_default();
    if given != key.name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            key.name
        )));
    }
    let write = request.write(path.subresource, false);
    let stored = objects::update(
        store,
        path.resource,
        &key,
        object,
        &write,
        Owners::FromDifference,
    )?;
    Ok(Answer::Document {
        code: 200,
        body: Value::clone(&stored),
        warnings,
        content_type: "application/json",
    })
}

fn patched(store: &mut Store, path: &Path, request: &Request) -> Result<Answer, Failure> {
    let kind = request.header(header::CONTENT_TYPE);
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind == "application/apply-patch+yaml" {
        return applied(store, path, request);
    }
    let patch = || -> Result<Value, Failure> {
        serde_json::from_slice(&request.body)
            .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))
    };
    let root = schema::root(path.resource.kind);
    let change = |object: &mut Value| -> Result<(), Failure> {
        match kind {
            "application/json-patch+json" => patch::json(object, &patch()?)?,
            "application/merge-patch+json" => patch::merge(object, &patch()?),
            "application/strategic-merge-patch+json" => patch::strategic(&root, object, &patch()?),
            _ => return Err(Failure::unsupported_media()),
        }
        Ok(())
    };
    if path.subresource == Some("scale") {
        return rescale(store, path, request, change);
    }
    let write = request.write(path.subresource, false);
    let stored = objects::modify(store, path.resource, &key(path), &write, change)?;
    Ok(document(200, Value::clone(&stored)))
}

/// Server-side apply. What is applied may be YAML, which JSON is, too.
fn applied(store: &mut Store, path: &Path, request: &Request) -> Result<Answer, Failure> {
    if request.query.get("fieldManager").is_empty() {
        let cause = Cause::required("fieldManager", "is required for apply patch");
        return Err(Failure::invalid(
            "meta.k8s.io",
            "PatchOptions",
            "",
            &[cause],
        ));
    }
    let config: Value = serde_yaml_ng::from_slice(&request.body)
        .map_err(|error| Failure::bad_request(format!("error decoding YAML: {error}")))?;
    let unknown = request.query.field_validation();
    let (mut config, warnings) = objects::fit(path.resource, config, unknown)?;
    let key = key(path);
    if !config["metadata"]["managedFields"].is_null() {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    let given = config["metadata"]["name"]
        .as_str()
        .unwrap_or(&key.name)
        .to_owned();
    if given != key.name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            key.name
        )));
    }
    config["metadata"]["name"] = json!(key.name);
    let force = if request.query.is("force") && !request.query.get("force").is_empty() {
        Force::Yes
    } else {
        Force::No
    };
    let write = request.write(path.subresource, false);
    let (stored, new) = objects::apply(store, path.resource, &key, &config, force, &write)?;
    Ok(Answer::Document {
        code: if new { 201 } else { 200 },
        body: Value::clone(&stored),
        warnings,
        content_type: "application/json",
    })
}

/// A change of the scale changes the workload's number of replicas.
fn rescale(
    store: &mut Store,
    path: &Path,
    request: &Request,
    change: impl FnOnce(&mut Value) -> Result<(), Failure>,
) -> Result<Answer, Failure> {
    let mut scale = views::scale(get(store, path)?);
    change(&mut scale)?;
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or_default();
    let name = path.name.as_deref().unwrap_or_default();
    if replicas < 0 {
        let why = "must be greater than or equal to 0";
        let cause = Cause::invalid("spec.replicas", &json!(replicas), why);
        return Err(Failure::invalid("autoscaling", "Scale", name, &[cause]));
    }
    let write = request.write(Some("scale"), false);
    let version = scale["metadata"]["resourceVersion"].take();
    let stored = objects::modify(store, path.resource, &key(path), &write, |object| {
        object["spec"]["replicas"] = json!(replicas);
        object["metadata"]["resourceVersion"] = version;
        Ok(())
    })?;
    Ok(document(200, views::scale(&stored)))
}

fn delete_all(store: &mut Store, path: &Path, request: &Request) -> Result<Answer, Failure> {
    let resource: &'static Resource = path.resource;
    let query = &request.query;
    let selector = Selector::parse(
        resource,
        query.get("labelSelector"),
        query.get("fieldSelector"),
    )?;
    let options = options(request)?;
    let list = views::list(store, path, query)?;
    let found: Vec<Key> = store
        .list(resource, path.namespace.as_deref())
        .filter(|(_, object)| selector.matches(object))
        .map(|(key, _)| key.clone())
        .collect();
    for key in found {
        deletion::delete(store, resource, &key, &options)?;
    }
    Ok(document(200, list))
}
