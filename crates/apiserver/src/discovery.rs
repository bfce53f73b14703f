//! What the server tells about itself: groups, versions, kinds.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::request::Page;
use crate::resources::{RESOURCES, Resource, Scope, VERBS, group_version};

/// The type of the document that tells everything at once.
pub(crate) const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The groups and their versions, the preferred one first.
const GROUPS: &[(&str, &[&str])] = &[
    ("apps", &["v1"]),
    ("autoscaling", &["v2", "v1"]),
    ("policy", &["v1"]),
    ("coordination.k8s.io", &["v1"]),
];

/// The version that the server says it is.
pub(crate) const GIT_VERSION: &str = "v1.36.3";

/// A page about the server.
///
/// # Errors
/// 404 for a group or version that there is not.
pub(crate) fn page(page: &Page, aggregated: bool) -> Result<Value, Failure> {
    match page {
        Page::Version => Ok(json!({
            "major": "1",
            "minor": "36",
            "gitVersion": GIT_VERSION,
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "",
            "platform": "linux/amd64",
        })),
        Page::Health => Ok(json!("ok")),
        Page::Core if aggregated => Ok(document(&[("", &["v1"])])),
        Page::Groups if aggregated => Ok(document(GROUPS)),
        Page::Core => Ok(json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1:6443"}],
        })),
        Page::Groups => Ok(groups()),
        Page::Resources(group, version) => resources(group, version),
    }
}

fn groups() -> Value {
    let groups: Vec<_> = GROUPS
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .iter()
                .map(|version| json!({"groupVersion": group_version(group, version), "version": version}))
                .collect();
            json!({"name": group, "versions": versions, "preferredVersion": versions[0]})
        })
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn of(group: &str, version: &str) -> Vec<&'static Resource> {
    let served = |resource: &&Resource| Resource::find(group, version, resource.plural).is_some();
    RESOURCES.iter().filter(served).collect()
}

fn verbs(resource: &Resource) -> Vec<&'static str> {
    // Namespaces are not deleted by the dozen.
    let collection = resource.plural != "namespaces";
    VERBS
        .iter()
        .filter(|verb| collection || **verb != "deletecollection")
        .copied()
        .collect()
}

fn resources(group: &str, version: &str) -> Result<Value, Failure> {
    let known = of(group, version);
    if known.is_empty() {
        return Err(Failure::no_such_path());
    }
    let mut list = Vec::new();
    for resource in known {
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.scope == Scope::Namespaced,
            "kind": resource.kind,
            "verbs": verbs(resource),
        });
        if !resource.short.is_empty() {
            entry["shortNames"] = json!(resource.short);
        }
        if resource.in_all {
            entry["categories"] = json!(["all"]);
        }
        list.push(entry);
        for sub in resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name),
                "singularName": "",
                "namespaced": resource.scope == Scope::Namespaced,
                "kind": sub.other.map_or(resource.kind, |(_, _, kind)| kind),
                "verbs": sub.verbs,
            });
            if let Some((group, version, _)) = sub.other {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
            }
            list.push(entry);
        }
    }
    let mut page = json!({
        "kind": "APIResourceList",
        "groupVersion": group_version(group, version),
        "resources": list,
    });
    if !group.is_empty() {
        page["apiVersion"] = json!("v1");
    }
    Ok(page)
}

/// Everything about some groups in one document.
fn document(groups: &[(&str, &[&str])]) -> Value {
    let items: Vec<_> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<_> = of(group, version).into_iter().map(described).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": group}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn described(resource: &Resource) -> Value {
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": {"group": "", "version": "", "kind": resource.kind},
        "scope": if resource.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verbs(resource),
    });
    if !resource.short.is_empty() {
        entry["shortNames"] = json!(resource.short);
    }
    if resource.in_all {
        entry["categories"] = json!(["all"]);
    }
    if !resource.subresources.is_empty() {
        let below: Vec<_> = resource
            .subresources
            .iter()
            .map(|sub| {
                let (group, version, kind) = sub.other.unwrap_or(("", "", resource.kind));
                json!({
                    "subresource": sub.name,
                    "responseKind": {"group": group, "version": version, "kind": kind},
                    "verbs": sub.verbs,
                })
            })
            .collect();
        entry["subresources"] = json!(below);
    }
    entry
}
