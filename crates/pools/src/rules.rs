//! What a change makes of a pool (contract 5.4). No I/O.

use bugle_api::{Error, PoolInfo, SCALES_TWICE, UpdatePoolRequest};
use bugle_types::pool::{PoolStatus, fields};

/// A reason of P3, in its words.
fn refused(reason: impl std::fmt::Display) -> Error {
    Error::parameter(format!("failed to update pod pool, err: {reason}"))
}

/// Everything that is wrong with a change whatever the pool is.
pub(crate) fn check(change: &UpdatePoolRequest) -> Result<(), Error> {
    let UpdatePoolRequest {
        size,
        max_size,
        horizontal_pod_autoscaler_spec: autoscaler,
    } = change;
    let mut reasons = Vec::new();
    if size.is_none() && max_size.is_none() && autoscaler.is_none() {
        reasons.push(
            "one of size, max_size and horizontal_pod_autoscaler_spec must be given".to_owned(),
        );
    }
    for (name, number) in [("size", size), ("max_size", max_size)] {
        if number.is_some_and(|number| number < 0) {
            reasons.push(format!("{name} is less than 0"));
        }
    }
    if let Some(text) = autoscaler.as_deref().filter(|text| !text.is_empty()) {
        reasons.extend(fields::autoscaler(text).refused);
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(refused(reasons.join(";")))
}

/// The pool after the change, which waits to be made.
pub(crate) fn changed(before: &PoolInfo, change: &UpdatePoolRequest) -> Result<PoolInfo, Error> {
    let mut pool = before.clone();
    match before.state().status {
        PoolStatus::PendingDeletion => {
            let id = &before.id;
            return Err(Error::parameter(format!(
                "the pod pool has already deleted, id: {id}"
            )));
        }
        status @ (PoolStatus::Pending | PoolStatus::PendingUpdate) => {
            let number = status.number();
            return Err(Error::parameter(format!(
                "pool status is {number} , not allowed to update"
            )));
        }
        PoolStatus::Creating | PoolStatus::Updating | PoolStatus::Running | PoolStatus::Failed => {}
    }
    let autoscaler = change.horizontal_pod_autoscaler_spec.as_deref();
    let autoscaler = autoscaler.filter(|text| !text.is_empty());
    if before.scalable {
        if autoscaler.is_some() {
            return Err(refused(SCALES_TWICE));
        }
        // One that somebody has recorded nevertheless is without effect, and in the way.
        pool.horizontal_pod_autoscaler_spec.clear();
    }
    pool.size = change.size.unwrap_or(before.size);
    pool.max_size = match change.max_size {
        _ if !before.scalable => pool.size,
        // 0 is absent, but for a pool that shrinks to nothing.
        Some(max_size) if max_size > 0 || pool.size == 0 => max_size,
        _ => before.max_size,
    };
    if pool.max_size < pool.size {
        return Err(refused("max_size is less than size"));
    }
    if let Some(text) = autoscaler {
        text.clone_into(&mut pool.horizontal_pod_autoscaler_spec);
    }
    // What is left may be of another platform, and bad in more ways than this change.
    pool.spec().map_err(|mistakes| {
        let prefix = "failed to update pod pool";
        let reasons: Vec<_> = mistakes
            .iter()
            .map(|mistake| format!("{prefix}{mistake}"))
            .collect();
        Error::parameter(reasons.join(";"))
    })?;
    pool.status = PoolStatus::PendingUpdate.number().into();
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bugle_api::{PoolRequest, ResourceAmounts};

    use super::*;

    fn pool(size: i64, max_size: i64, status: PoolStatus) -> PoolInfo {
        let amounts = Some(BTreeMap::from([("cpu".to_owned(), "1".to_owned())]));
        let request = PoolRequest {
            id: "p".to_owned(),
            size,
            max_size,
            resources: ResourceAmounts {
                limits: amounts.clone(),
                requests: amounts,
            },
            ..PoolRequest::default()
        };
        PoolInfo {
            status: status.number().into(),
            ..request.into()
        }
    }

    fn sizes(size: Option<i64>, max_size: Option<i64>) -> UpdatePoolRequest {
        UpdatePoolRequest {
            size,
            max_size,
            ..UpdatePoolRequest::default()
        }
    }

    #[test]
    fn a_change_waits_in_every_status_that_allows_one() {
        for status in PoolStatus::ALL {
            let outcome = changed(&pool(1, 3, status), &sizes(Some(2), None));
            match status.number() {
                1 | 3 | 4 | 5 => assert_eq!(outcome.unwrap().status, 2),
                6 => assert_eq!(
                    outcome.unwrap_err().message,
                    "the pod pool has already deleted, id: p. check input parameters"
                ),
                number => assert_eq!(
                    outcome.unwrap_err().message,
                    format!(
                        "pool status is {number} , not allowed to update. check input parameters"
                    )
                ),
            }
        }
    }

    #[test]
    fn what_is_absent_stays() {
        let scalable = pool(1, 3, PoolStatus::Running);
        let fixed = pool(2, 2, PoolStatus::Running);
        for (before, size, max_size, after) in [
            (&scalable, Some(2), None, (2, 3)),
            (&scalable, Some(2), Some(0), (2, 3)),
            (&scalable, None, Some(5), (1, 5)),
            (&scalable, Some(0), Some(0), (0, 0)),
            (&scalable, Some(0), None, (0, 3)),
            (&fixed, Some(5), Some(9), (5, 5)),
            (&fixed, None, Some(9), (2, 2)),
        ] {
            let pool = changed(before, &sizes(size, max_size)).unwrap();
            assert_eq!((pool.size, pool.max_size), after);
            assert_eq!(
                pool.scalable, before.scalable,
                "that is decided at the start"
            );
        }
        let outcome = changed(&scalable, &sizes(Some(4), None));
        assert_eq!(
            outcome.unwrap_err().message,
            "failed to update pod pool, err: max_size is less than size. check input parameters"
        );
    }

    #[test]
    fn an_empty_autoscaler_keeps_the_old_one_and_none_goes_with_growth() {
        let autoscaler = |text: &str| UpdatePoolRequest {
            horizontal_pod_autoscaler_spec: Some(text.to_owned()),
            ..UpdatePoolRequest::default()
        };
        let spec = r#"{"maxReplicas":2}"#;
        let with = changed(&pool(1, 1, PoolStatus::Running), &autoscaler(spec)).unwrap();
        assert_eq!(with.horizontal_pod_autoscaler_spec, spec);
        let with = PoolInfo { status: 4, ..with };
        let kept = changed(&with, &autoscaler("")).unwrap();
        assert_eq!(kept.horizontal_pod_autoscaler_spec, spec);
        let outcome = changed(&pool(1, 3, PoolStatus::Running), &autoscaler(spec));
        assert_eq!(
            outcome.unwrap_err().message,
            "failed to update pod pool, err: max_size greater than size and \
             horizontal_pod_autoscaler_spec cannot be set at the same time. check input parameters"
        );
        assert!(check(&autoscaler("{nope")).is_err());
    }

    #[test]
    fn a_pool_that_grows_takes_no_autoscaler_at_any_size_and_loses_a_recorded_one() {
        let before = pool(1, 2, PoolStatus::Running);
        let both = UpdatePoolRequest {
            size: Some(2),
            horizontal_pod_autoscaler_spec: Some(r#"{"maxReplicas":2}"#.to_owned()),
            ..UpdatePoolRequest::default()
        };
        let refused = changed(&before, &both).unwrap_err();
        assert!(refused.message.contains(SCALES_TWICE), "{refused:?}");
        let recorded = PoolInfo {
            size: 2,
            horizontal_pod_autoscaler_spec: r#"{"maxReplicas":2}"#.to_owned(),
            ..before
        };
        let spec = recorded.spec().unwrap();
        assert_eq!(spec.autoscaler, None, "one of the two scales it");
        assert!(spec.ignored[0].contains(SCALES_TWICE), "{:?}", spec.ignored);
        let undone = changed(&recorded, &sizes(Some(1), None)).unwrap();
        assert_eq!((undone.size, undone.max_size), (1, 2));
        assert_eq!(undone.horizontal_pod_autoscaler_spec, "");
    }

    #[test]
    fn a_change_of_nothing_and_a_negative_one_are_refused() {
        assert!(check(&sizes(None, None)).is_err());
        for (change, reason) in [
            (sizes(Some(-1), None), "size is less than 0"),
            (sizes(None, Some(-1)), "max_size is less than 0"),
        ] {
            assert_eq!(
                check(&change).unwrap_err().message,
                format!("failed to update pod pool, err: {reason}. check input parameters")
            );
        }
    }
}
