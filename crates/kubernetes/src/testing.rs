//! Pools for the tests.

use bugle_types::pool::PoolSpec;

/// A pool of that size with nothing else said about it.
pub(crate) fn pool(id: &str, size: u32, max_size: u32) -> PoolSpec {
    PoolSpec {
        id: id.parse().unwrap(),
        group: bugle_types::pool::PoolGroup::default(),
        size,
        max_size,
        scalable: max_size > size,
        reuse: false,
        image: None,
        init_image: None,
        labels: std::collections::BTreeMap::default(),
        environment: std::collections::BTreeMap::default(),
        resources: bugle_types::pool::PoolResources::default(),
        volumes: Vec::new(),
        volume_mounts: Vec::new(),
        affinities: None,
        node_selector: std::collections::BTreeMap::default(),
        runtime_class_name: None,
        tolerations: Vec::new(),
        autoscaler: None,
        topology_spread: Vec::new(),
        pending_threshold: None,
        idle: bugle_types::pool::IdleRecycle::default(),
        ignored: Vec::new(),
    }
}
