//! Names, labels and annotations of what the controller makes.

use bugle_types::pool::PoolId;

/// Before the id of a pool, in the names of its objects.
pub const PREFIX: &str = "function-agent-";

/// The label that a Deployment counts its Pods by. Its value is the name of the Deployment.
pub const APP: &str = "app";

/// The label with the id of the pool, on everything that the controller makes.
pub const POOL: &str = "bugle/pool";

/// The label by which the controller knows what it made.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The value of [`MANAGED_BY`], and the name under which fields are owned.
pub const MANAGER: &str = "bugle";

/// The label of workers of a fixed pool: whether one that an instance has for itself still counts.
pub const REUSE: &str = "yr-reuse";

/// The annotation with the id of the pool on Pods of scalable pools.
pub const POD_POOL: &str = "yr-pod-pool";

/// The annotation with the seconds that a Pod may be pending.
pub const PENDING_THRESHOLD: &str = "yr-pod-pending-duration-threshold";

/// The annotation with the request that a Pod was made for.
pub const REQUEST: &str = "bugle/request";

/// The annotation with the digest of what was applied.
pub const DIGEST: &str = "bugle/manifest";

/// The annotation by which the cluster deletes the cheapest Pods of a Deployment first.
pub const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The longest name of a Pod.
const LONGEST: usize = 63;

/// The name of the pool's Deployment, and the value of [`APP`].
pub fn deployment(pool: &PoolId) -> String {
    format!("{PREFIX}{pool}")
}

/// The name of the pool's autoscaler.
pub fn autoscaler(pool: &PoolId) -> String {
    format!("{PREFIX}{pool}-hpa")
}

/// The name of a Pod of a scalable pool: 8 and 12 hexadecimal digits of `random` after the pool's
/// name, cut at 63 characters.
pub fn pod(pool: &PoolId, random: u128) -> String {
    let hex = format!("{random:032x}");
    let mut name = format!("{PREFIX}{pool}-{}{}", &hex[..8], &hex[20..]);
    name.truncate(LONGEST);
    name
}

/// What selects everything that the controller made.
pub fn selector() -> String {
    format!("{MANAGED_BY}={MANAGER},{POOL}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_pod_fits_even_for_the_longest_pool() {
        let pool: PoolId = "a".repeat(40).parse().unwrap();
        let name = pod(&pool, u128::MAX);
        assert_eq!(name.len(), 63);
        assert!(name.starts_with(&deployment(&pool)));
        let small: PoolId = "p".parse().unwrap();
        assert_eq!(
            pod(&small, 0),
            format!("function-agent-p-{}", "0".repeat(20))
        );
    }
}
