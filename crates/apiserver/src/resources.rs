//! The kinds of objects that the server knows, as discovery tells them.

/// One kind of object and where its objects are reached.
#[derive(Debug)]
pub(crate) struct Resource {
    /// API group; empty for the core group.
    pub(crate) group: &'static str,
    /// The version objects are stored and usually served in.
    pub(crate) version: &'static str,
    /// The name in paths.
    pub(crate) plural: &'static str,
    /// The name of one.
    pub(crate) singular: &'static str,
    /// The name in objects.
    pub(crate) kind: &'static str,
    /// Whether its objects live in a namespace.
    pub(crate) scope: Scope,
    /// Abbreviations that clients offer.
    pub(crate) short: &'static [&'static str],
    /// Whether `kubectl get all` shows it.
    pub(crate) in_all: bool,
    /// Whether a change of its spec counts `metadata.generation` up.
    pub(crate) counts_generations: bool,
    /// What hangs below one object.
    pub(crate) subresources: &'static [Subresource],
}

/// Where objects live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// In a namespace.
    Namespaced,
    /// Beside the namespaces.
    Cluster,
}

/// A path below one object.
#[derive(Debug)]
pub(crate) struct Subresource {
    /// The last part of the path.
    pub(crate) name: &'static str,
    /// Group, version and kind of what it takes and gives; `None` where they are the object's own.
    pub(crate) other: Option<(&'static str, &'static str, &'static str)>,
    /// What can be done with it.
    pub(crate) verbs: &'static [&'static str],
}

/// What can be done with every kind of object.
pub(crate) const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

const STATUS: Subresource = Subresource {
    name: "status",
    other: None,
    verbs: &["get", "patch", "update"],
};

const SCALE: Subresource = Subresource {
    name: "scale",
    other: Some(("autoscaling", "v1", "Scale")),
    verbs: &["get", "patch", "update"],
};

const EVICTION: Subresource = Subresource {
    name: "eviction",
    other: Some(("policy", "v1", "Eviction")),
    verbs: &["create"],
};

const fn namespaced(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
) -> Resource {
    Resource {
        group,
        version,
        plural,
        singular,
        kind,
        scope: Scope::Namespaced,
        short: &[],
        in_all: false,
        counts_generations: false,
        subresources: &[],
    }
}

/// Every kind, in the order in which discovery lists them.
pub(crate) static RESOURCES: &[Resource] = &[
    Resource {
        short: &["cm"],
        ..namespaced("", "v1", "configmaps", "configmap", "ConfigMap")
    },
    Resource {
        short: &["ev"],
        ..namespaced("", "v1", "events", "event", "Event")
    },
    Resource {
        short: &["ns"],
        scope: Scope::Cluster,
        subresources: &[STATUS],
        ..namespaced("", "v1", "namespaces", "namespace", "Namespace")
    },
    Resource {
        short: &["no"],
        scope: Scope::Cluster,
        subresources: &[STATUS],
        ..namespaced("", "v1", "nodes", "node", "Node")
    },
    Resource {
        short: &["po"],
        in_all: true,
        counts_generations: true,
        subresources: &[EVICTION, STATUS],
        ..namespaced("", "v1", "pods", "pod", "Pod")
    },
    Resource {
        short: &["quota"],
        subresources: &[STATUS],
        ..namespaced("", "v1", "resourcequotas", "resourcequota", "ResourceQuota")
    },
    namespaced("", "v1", "secrets", "secret", "Secret"),
    Resource {
        short: &["sa"],
        ..namespaced(
            "",
            "v1",
            "serviceaccounts",
            "serviceaccount",
            "ServiceAccount",
        )
    },
    Resource {
        short: &["deploy"],
        in_all: true,
        counts_generations: true,
        subresources: &[SCALE, STATUS],
        ..namespaced("apps", "v1", "deployments", "deployment", "Deployment")
    },
    Resource {
        short: &["rs"],
        in_all: true,
        counts_generations: true,
        subresources: &[SCALE, STATUS],
        ..namespaced("apps", "v1", "replicasets", "replicaset", "ReplicaSet")
    },
    Resource {
        short: &["hpa"],
        in_all: true,
        subresources: &[STATUS],
        ..namespaced(
            "autoscaling",
            "v2",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
            "HorizontalPodAutoscaler",
        )
    },
    namespaced("coordination.k8s.io", "v1", "leases", "lease", "Lease"),
    Resource {
        short: &["pdb"],
        counts_generations: true,
        subresources: &[STATUS],
        ..namespaced(
            "policy",
            "v1",
            "poddisruptionbudgets",
            "poddisruptionbudget",
            "PodDisruptionBudget",
        )
    },
];

impl Resource {
    /// The kind of that name; every name that the server itself uses is in the table.
    pub(crate) fn of(plural: &str) -> &'static Self {
        RESOURCES
            .iter()
            .find(|resource| resource.plural == plural)
            .expect("the server uses names of its own table")
    }

    /// Finds what a path names. The older version of the autoscaler is served, too.
    pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|resource| {
            resource.group == group
                && resource.plural == plural
                && (resource.version == version || (group, version) == ("autoscaling", "v1"))
        })
    }

    /// `apps/v1`, or `v1` in the core group.
    pub(crate) fn api_version(&self) -> String {
        group_version(self.group, self.version)
    }

    /// `deployments.apps`, as errors name it.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `Deployment.apps`, as errors of validation name it.
    pub(crate) fn qualified_kind(&self) -> String {
        if self.group.is_empty() {
            self.kind.to_owned()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }

    /// Whether its state is written below `/status` only.
    pub(crate) fn has_status(&self) -> bool {
        self.subresources.iter().any(|sub| sub.name == "status")
    }
}

/// `group/version`, or the version alone in the core group.
pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}
