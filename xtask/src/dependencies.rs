//! The dependency rule: which crate of the workspace may use which.
//!
//! The table is the picture of `docs/architecture.md`. A request walks down it and nothing else
//! crosses it; an edge that is not here is a decision, and belongs here in the same commit.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::Value;

/// Each crate and the crates of the workspace that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("api", &["types"]),
    ("client", &["api", "types"]),
    // It knows HTTP and two headers of an answer, and nothing of the platform.
    ("load", &[]),
    ("store", &["types"]),
    ("registry", &["types", "api", "store"]),
    ("artifacts", &["types"]),
    ("images", &["types", "artifacts"]),
    ("instances", &["types", "artifacts"]),
    // On one machine it stands before the drivers of `instances`, as one of them.
    ("pools", &["types", "api", "store", "instances"]),
    // It sees the traits of `instances` and the simulated driver.
    ("scheduler", &["types", "instances"]),
    // It is one more driver to the scheduler's fleet, and keeps who may connect in the store.
    ("node", &["types", "instances", "scheduler", "store"]),
    // It keeps who the other gateways are in the store, and has their certificates of the nodes'
    // authority.
    ("cluster", &["types", "store", "node"]),
    // It sees the scheduler's handle, and the shapes of a call.
    ("gateway", &["types", "api", "scheduler", "instances"]),
    (
        "server",
        &[
            "types",
            "api",
            "store",
            "registry",
            "artifacts",
            "images",
            "instances",
            "pools",
            "scheduler",
            "gateway",
            "kubernetes",
            "node",
            "cluster",
        ],
    ),
    ("bugle", &["server", "client", "load", "api", "types"]),
    // It sees records of pools through a trait of its own.
    ("kubernetes", &["types"]),
    // It stands for a cluster in tests, and knows nothing of the platform.
    ("apiserver", &[]),
    // Black boxes: they share no code with what they look at.
    ("testkit", &[]),
    ("tests", &["testkit"]),
    ("bench", &["load"]),
    ("xtask", &[]),
];

/// What breaks the rule, in words; nothing when it holds.
///
/// # Errors
/// When cargo cannot describe the workspace.
pub(crate) fn violations() -> anyhow::Result<Vec<String>> {
    let output = crate::cargo()
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .context("cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("packages")?;
    Ok(packages.iter().flat_map(of_package).collect())
}

fn of_package(package: &Value) -> Vec<String> {
    let name = short(package["name"].as_str().unwrap_or_default());
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let Some(allowed) = allowed.get(name) else {
        return vec![format!("{name} is not in the table of the dependency rule")];
    };
    let used = package["dependencies"].as_array().into_iter().flatten();
    used.filter(|dependency| dependency["path"].is_string())
        .filter_map(|dependency| {
            let other = short(dependency["name"].as_str().unwrap_or_default());
            // A crate's tests may use the simulated parts of any crate that it may use anyway,
            // the test kit, and the cluster for tests.
            let doubles = ["testkit", "apiserver"];
            let testing = dependency["kind"] == "dev" && doubles.contains(&other);
            let fine = testing || other == name || allowed.contains(&other);
            (!fine).then(|| format!("{name} may not use {other}"))
        })
        .collect()
}

fn short(package: &str) -> &str {
    package.strip_prefix("bugle-").unwrap_or(package)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, uses: &str, kind: Option<&str>) -> Value {
        json!({"name": name, "dependencies": [
            {"name": uses, "kind": kind, "path": "/somewhere"},
            {"name": "serde", "kind": null, "path": null},
        ]})
    }

    #[test]
    fn an_edge_of_the_table_is_fine_and_any_other_is_not() {
        assert!(of_package(&package("bugle-api", "bugle-types", None)).is_empty());
        let found = of_package(&package("bugle-types", "bugle-store", None));
        assert_eq!(found, ["types may not use store"]);
        let found = of_package(&package("bugle-new", "bugle-types", None));
        assert_eq!(found, ["new is not in the table of the dependency rule"]);
    }

    #[test]
    fn the_test_kit_is_for_tests_alone() {
        assert!(of_package(&package("bugle-api", "bugle-testkit", Some("dev"))).is_empty());
        assert_eq!(
            of_package(&package("bugle-api", "bugle-testkit", None)).len(),
            1
        );
    }

    #[test]
    fn the_table_has_no_circle() {
        let mut known: Vec<&str> = Vec::new();
        let mut waiting: Vec<_> = ALLOWED.to_vec();
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain(|(name, uses)| {
                let ready = uses.iter().all(|used| known.contains(used));
                if ready {
                    known.push(name);
                }
                !ready
            });
            assert!(waiting.len() < before, "a circle among {waiting:?}");
        }
    }
}
