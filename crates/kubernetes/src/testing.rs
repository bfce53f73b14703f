//! Pools for the tests.

use bugle_types::pool::PoolSpec;

/// A pool of that size with nothing else said about it.
pub(crate) fn pool(id: &str, size: u32, max_size: u32) -> PoolSpec {
    PoolSpec::new(id.parse().unwrap(), size, max_size)
}
