//! The layout of the store (contract 7.1).

use bugle_api::Caller;
use bugle_types::{BUSINESS, FunctionId, FunctionName, Kind, Version};
use bytes::Bytes;

use crate::config::CLUSTER;

/// Under this are the registry's own records.
pub(crate) const RECORDS: &str = "/repo/FunctionVersion/";
/// Published functions of kinds faas and agent.
pub(crate) const PUBLISHED_FAAS: &str = "/sn/functions/";
/// Published functions of the other kinds.
pub(crate) const PUBLISHED_OTHER: &str = "/yr/functions/";
/// Bounds of instances.
pub(crate) const INSTANCES: &str = "/instances/";

/// Makes the keys of one tenant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys<'a>(pub(crate) &'a Caller);

impl Keys<'_> {
    /// Every record of a function.
    pub(crate) fn records(self, name: &FunctionName) -> Bytes {
        self.repository("FunctionVersion", name, &[])
    }

    /// The record of a version, as it is spelled.
    pub(crate) fn record(self, name: &FunctionName, version: &str) -> Bytes {
        self.repository("FunctionVersion", name, &[version, "/"])
    }

    /// The status records of a function.
    pub(crate) fn statuses(self, name: &FunctionName) -> Bytes {
        self.repository("FunctionStatus", name, &[])
    }

    /// The status record of a version.
    pub(crate) fn status(self, name: &FunctionName, version: &str) -> Bytes {
        self.repository("FunctionStatus", name, &[version, "/"])
    }

    /// What a function publishes, under both prefixes.
    pub(crate) fn published_all(self, name: &FunctionName) -> [Bytes; 2] {
        [PUBLISHED_FAAS, PUBLISHED_OTHER].map(|root| self.published_under(root, name, ""))
    }

    /// What a version publishes.
    pub(crate) fn published(self, name: &FunctionName, kind: Kind, version: &str) -> Bytes {
        let root = match kind {
            Kind::Faas | Kind::Agent => PUBLISHED_FAAS,
            _ => PUBLISHED_OTHER,
        };
        self.published_under(root, name, version)
    }

    /// The bounds of all versions and labels of a function in a cluster.
    pub(crate) fn instances_all(self, cluster: &str, name: &FunctionName) -> Bytes {
        self.instances_under(cluster, name, &[])
    }

    /// The bounds of a version in a cluster.
    pub(crate) fn instances(self, cluster: &str, name: &FunctionName, version: &str) -> Bytes {
        self.instances_under(cluster, name, &[version])
    }

    /// The bounds of all labels of a version in a cluster.
    pub(crate) fn labels(self, cluster: &str, name: &FunctionName, version: &str) -> Bytes {
        self.instances_under(cluster, name, &[version, "/label/"])
    }

    /// The bounds of a label of a version in a cluster.
    pub(crate) fn label(
        self,
        cluster: &str,
        name: &FunctionName,
        version: &str,
        label: &str,
    ) -> Bytes {
        self.instances_under(cluster, name, &[version, "/label/", label])
    }

    fn repository(self, kind: &str, name: &FunctionName, rest: &[&str]) -> Bytes {
        let (tenant, product) = self.owner();
        let root = ["/repo/", kind, "/", BUSINESS, "/", tenant, "/", product];
        joined(&[&root, &["/", name.as_str(), "/"], rest])
    }

    fn published_under(self, root: &str, name: &FunctionName, version: &str) -> Bytes {
        let (tenant, product) = self.owner();
        let sign = if product.is_empty() { "" } else { "@" };
        joined(&[
            &[
                root,
                "business/",
                BUSINESS,
                "/tenant/",
                tenant,
                sign,
                product,
            ],
            &["/function/", name.as_str(), "/version/", version],
        ])
    }

    fn instances_under(self, cluster: &str, name: &FunctionName, rest: &[&str]) -> Bytes {
        let (tenant, _) = self.owner();
        joined(&[
            &[INSTANCES, "business/", BUSINESS, "/cluster/", cluster],
            &["/tenant/", tenant, "/function/", name.as_str(), "/version/"],
            rest,
        ])
    }

    /// The tenant and the product, which is empty where there is none.
    fn owner(&self) -> (&str, &str) {
        let Caller { tenant, product } = self.0;
        let product = product.as_ref().map_or("", |product| product.as_str());
        (tenant.as_str(), product)
    }
}

/// A registration makes a dozen keys; formatting them would be a noticeable part of it.
fn joined(parts: &[&[&str]]) -> Bytes {
    let parts = || parts.iter().copied().flatten();
    let mut key = Vec::with_capacity(parts().map(|part| part.len()).sum());
    for part in parts() {
        key.extend_from_slice(part.as_bytes());
    }
    key.into()
}

/// The owner, name and version of a record's key; none for a key of another form.
pub(crate) fn parse_record(key: &[u8]) -> Option<(Caller, FunctionName, String)> {
    let parts: Vec<&str> = std::str::from_utf8(key)
        .ok()?
        .strip_prefix(RECORDS)?
        .split('/')
        .collect();
    let [_business, tenant, product, name, version, ""] = parts.as_slice() else {
        return None;
    };
    let product = Some(*product).filter(|product| !product.is_empty());
    let caller = Caller {
        tenant: tenant.parse().ok()?,
        product: product.map(str::parse).transpose().ok()?,
    };
    Some((caller, name.parse().ok()?, (*version).to_owned()))
}

/// Every key under which a function version may be published, and whether it is under the prefix of
/// faas and agent. Only one of them is ever there.
pub(crate) fn published_of(id: &FunctionId) -> impl Iterator<Item = (Bytes, bool)> {
    let caller = owner(id);
    let roots = [(PUBLISHED_FAAS, true), (PUBLISHED_OTHER, false)];
    roots.into_iter().flat_map(move |(root, faas)| {
        let versions = spellings(&id.version).into_iter().flatten();
        let caller = caller.clone();
        versions.map(move |version| {
            let key = Keys(&caller).published_under(root, &id.name, version);
            (key, faas)
        })
    })
}

/// The prefixes of the bounds of a version's labels in this cluster.
pub(crate) fn labels_of(id: &FunctionId) -> impl Iterator<Item = Bytes> {
    let caller = owner(id);
    spellings(&id.version)
        .into_iter()
        .flatten()
        .map(move |version| Keys(&caller).labels(CLUSTER, &id.name, version))
}

fn owner(id: &FunctionId) -> Caller {
    Caller {
        tenant: id.tenant.clone(),
        product: id.product.clone(),
    }
}

/// How a version is spelled in keys: the draft in one of two ways, by kind.
fn spellings(version: &Version) -> [Option<&str>; 2] {
    match version {
        Version::Draft => [Some(Kind::Faas.draft()), Some(Kind::Agent.draft())],
        Version::Published(label) => [Some(label.as_str()), None],
    }
}

/// The function version of a published key, and whether it is under the prefix of faas and agent.
pub(crate) fn parse_published(key: &[u8]) -> Option<(FunctionId, bool)> {
    let text = std::str::from_utf8(key).ok()?;
    let (rest, faas) = match text.strip_prefix(PUBLISHED_FAAS) {
        Some(rest) => (rest, true),
        None => (text.strip_prefix(PUBLISHED_OTHER)?, false),
    };
    let parts: Vec<&str> = rest.split('/').collect();
    let [
        "business",
        _,
        "tenant",
        owner,
        "function",
        name,
        "version",
        version,
    ] = parts.as_slice()
    else {
        return None;
    };
    let (tenant, product) = match owner.split_once('@') {
        Some((tenant, product)) => (tenant, Some(product.parse().ok()?)),
        None => (*owner, None),
    };
    let id = FunctionId {
        tenant: tenant.parse().ok()?,
        product,
        name: name.parse().ok()?,
        version: version.parse::<Version>().ok()?,
    };
    Some((id, faas))
}

/// The parts of the key of a label's bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LabelKey {
    pub(crate) cluster: String,
    pub(crate) tenant: bugle_types::TenantId,
    pub(crate) name: FunctionName,
    pub(crate) version: Version,
    pub(crate) label: bugle_types::InstanceLabel,
}

/// The parts of a label's key; none for the bounds of a version itself, and for other keys.
pub(crate) fn parse_label(key: &[u8]) -> Option<LabelKey> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(INSTANCES)?;
    let parts: Vec<&str> = rest.split('/').collect();
    let [
        "business",
        _,
        "cluster",
        cluster,
        "tenant",
        tenant,
        "function",
        name,
        "version",
        version,
        "label",
        label,
    ] = parts.as_slice()
    else {
        return None;
    };
    Some(LabelKey {
        cluster: (*cluster).to_owned(),
        tenant: tenant.parse().ok()?,
        name: name.parse().ok()?,
        version: version.parse().ok()?,
        label: label.parse().ok()?,
    })
}
