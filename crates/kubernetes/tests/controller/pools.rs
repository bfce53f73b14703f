//! What pools become, on any cluster.

use std::time::Duration;

use bugle_kubernetes::decide::{Refusal, VANISHED};
use bugle_kubernetes::{GrowError, Use, names};
use bugle_types::pool::{IdleRecycle, IdleTime, PoolSpec, PoolStatus};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Event, Pod, ResourceQuota};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use crate::stage::{MemoryRecords, Stage, pool};

fn quota(pods: u32) -> ResourceQuota {
    serde_json::from_value(
        json!({"metadata": {"name": "few"}, "spec": {"hard": {"pods": pods.to_string()}}}),
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_comes_grows_shrinks_and_leaves_nothing_behind() {
    let stage = Stage::new().await;
    let running = stage.start("one").await;
    stage.records.create(pool("fixed", 2, 2));
    stage.records.running("fixed", 2).await;
    assert_eq!(stage.records.state("fixed").unwrap().msg, "Running");
    let resize = |size| move |spec: &mut PoolSpec| (spec.size, spec.max_size) = (size, size);
    stage
        .records
        .change("fixed", PoolStatus::PendingUpdate, resize(3));
    stage.records.running("fixed", 3).await;
    stage
        .records
        .change("fixed", PoolStatus::PendingUpdate, resize(1));
    stage.records.running("fixed", 1).await;
    stage
        .records
        .change("fixed", PoolStatus::PendingDeletion, |_| ());
    stage.records.until("fixed", |state| state.is_none()).await;
    assert_eq!(stage.counts().await, (0, 0, 0));
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scalable_pool_grows_by_one_pod_for_each_request_and_no_further_than_it_may() {
    let stage = Stage::new().await;
    let running = stage.start("one").await;
    stage.records.create(pool("scaled", 1, 3));
    stage.records.running("scaled", 1).await;
    let id = "scaled".parse().unwrap();
    // Whoever waits for an instance asks again and again.
    for _ in 0..3 {
        running.handle.grow(&id, "first").unwrap();
    }
    stage.records.running("scaled", 2).await;
    running.handle.grow(&id, "first").unwrap();
    running.handle.grow(&id, "second").unwrap();
    stage.records.running("scaled", 3).await;
    assert_eq!(
        running.handle.grow(&id, "third"),
        Err(GrowError::Refused(Refusal::Full(3, 3)))
    );
    let unknown = running.handle.grow(&"other".parse().unwrap(), "a");
    assert_eq!(unknown, Err(GrowError::Refused(Refusal::Unknown)));
    let pods = stage.pods().await;
    assert!(
        pods.iter()
            .all(|pod| pod.annotations()["yr-pod-pool"] == "scaled")
    );
    assert!(
        pods.iter()
            .all(|pod| pod.owner_references()[0].name == "function-agent-scaled")
    );
    stage
        .records
        .change("scaled", PoolStatus::PendingDeletion, |_| ());
    stage.records.until("scaled", |state| state.is_none()).await;
    assert_eq!(stage.counts().await, (0, 0, 0));
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_idles_for_too_long_is_recycled() {
    let stage = Stage::new().await;
    let running = stage.start("one").await;
    let mut spec = pool("idle", 0, 2);
    spec.idle = IdleRecycle {
        reserved: IdleTime::Unset,
        scaled: IdleTime::After(Duration::from_secs(1)),
    };
    stage.records.create(spec);
    stage.records.running("idle", 0).await;
    running.handle.grow(&"idle".parse().unwrap(), "a").unwrap();
    stage.records.running("idle", 1).await;
    let name = stage.pods().await[0].name_any();
    stage.hosting.set(&name, Use::IdleSince(Instant::now()));
    stage.records.running("idle", 0).await;
    stage.until_pods(<[Pod]>::is_empty).await;
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_pool_that_becomes_smaller_loses_its_idle_pods() {
    let stage = Stage::new().await;
    let running = stage.start("one").await;
    stage.records.create(pool("fixed", 3, 3));
    stage.records.running("fixed", 3).await;
    let pods = stage.pods().await;
    // The cluster would take any; the one that comes first by name, and the last, are busy.
    for busy in [&pods[0], &pods[2]] {
        stage.hosting.set(&busy.name_any(), Use::Busy(1));
    }
    let smaller = |spec: &mut PoolSpec| (spec.size, spec.max_size) = (2, 2);
    stage
        .records
        .change("fixed", PoolStatus::PendingUpdate, smaller);
    stage.until_pods(|pods| pods.len() == 2).await;
    let left: Vec<_> = stage.pods().await.iter().map(Pod::name_any).collect();
    assert_eq!(left, [pods[0].name_any(), pods[2].name_any()]);
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_pods_of_an_autoscaled_pool_the_idle_ones_go_first() {
    let stage = Stage::new().await;
    let running = stage.start("one").await;
    let mut spec = pool("scaled", 1, 1);
    spec.autoscaler = Some(json!({"minReplicas": 1, "maxReplicas": 3}));
    stage.records.create(spec);
    stage.records.running("scaled", 1).await;
    // As an autoscaler does.
    let scale = async |replicas: usize| {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let (deployments, parameters) = (stage.api::<Deployment>(), PatchParams::default());
        let patched = deployments.patch("function-agent-scaled", &parameters, &patch);
        let _scaled = patched.await.unwrap();
        stage.until_pods(|pods| pods.len() == replicas).await;
    };
    scale(3).await;
    let pods = stage.pods().await;
    let busy = [pods[0].name_any(), pods[2].name_any()];
    for busy in &busy {
        stage.hosting.set(busy, Use::Busy(1));
    }
    let told = |pod: &&Pod| {
        pod.annotations()
            .get(names::COST)
            .is_some_and(|cost| cost == "1")
    };
    stage
        .until_pods(|pods| pods.iter().filter(told).count() == 2)
        .await;
    scale(2).await;
    let left: Vec<_> = stage.pods().await.iter().map(Pod::name_any).collect();
    assert_eq!(left, busy);
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_idle_and_has_work_again_is_not_recycled() {
    let stage = Stage::new().await;
    let running = stage.start("one").await;
    let mut spec = pool("kept", 2, 3);
    let second = IdleTime::After(Duration::from_secs(1));
    spec.idle = IdleRecycle {
        reserved: second,
        scaled: second,
    };
    stage.records.create(spec);
    stage.records.running("kept", 2).await;
    let pods = stage.pods().await;
    let (busy, idle) = (pods[0].name_any(), pods[1].name_any());
    stage.hosting.set(&busy, Use::Busy(1));
    stage.hosting.set(&idle, Use::IdleSince(Instant::now()));
    let names = |pods: &[Pod]| pods.iter().map(Pod::name_any).collect::<Vec<_>>();
    // The idle one goes and is replaced at once.
    stage
        .until_pods(|pods| pods.len() == 2 && !names(pods).contains(&idle))
        .await;
    assert!(names(&stage.pods().await).contains(&busy));
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaled_pool_has_an_autoscaler_and_a_wrong_one_fails_the_pool() {
    let stage = Stage::new().await;
    let running = stage.start("one").await;
    let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let mut good = pool("scaled", 2, 2);
    good.autoscaler = Some(json!({"minReplicas": 1, "maxReplicas": 3, "metrics": [metric]}));
    stage.records.create(good);
    let runs = |state: Option<&bugle_types::pool::PoolState>| {
        state.is_some_and(|state| state.status == PoolStatus::Running)
    };
    stage.records.until("scaled", runs).await;
    let scaler = stage
        .api::<HorizontalPodAutoscaler>()
        .get("function-agent-scaled-hpa")
        .await
        .unwrap();
    assert_eq!(
        scaler.spec.unwrap().scale_target_ref.name,
        "function-agent-scaled"
    );
    let mut zero = pool("zero", 2, 2);
    zero.autoscaler = Some(json!({"minReplicas": 0, "maxReplicas": 3, "metrics": [metric]}));
    stage.records.create(zero);
    stage
        .records
        .says("zero", "invalid HPA spec, create HPA failed")
        .await;
    assert_eq!(
        stage.records.state("zero").unwrap().status,
        PoolStatus::Failed
    );
    // No Deployment is made for it.
    assert_eq!(stage.counts().await.0, 1);
    for id in ["scaled", "zero"] {
        stage
            .records
            .change(id, PoolStatus::PendingDeletion, |_| ());
        stage.records.until(id, |state| state.is_none()).await;
    }
    assert_eq!(stage.counts().await, (0, 0, 0));
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_pulled_is_told_in_the_message() {
    let stage = Stage::new().await;
    let running = stage.start("one").await;
    let mut spec = pool("broken", 1, 1);
    spec.image = Some("127.0.0.1:1/no-such-image:1".to_owned());
    stage.records.create(spec);
    stage
        .records
        .until("broken", |state| {
            state.is_some_and(|state| {
                ["ErrImagePull", "ImagePullBackOff"]
                    .iter()
                    .any(|reason| state.msg.contains(reason))
            })
        })
        .await;
    let state = stage.records.state("broken").unwrap();
    assert_eq!((state.status, state.ready_count), (PoolStatus::Creating, 0));
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_is_told_in_the_message_and_in_an_event() {
    let stage = Stage::new().await;
    let running = stage.start("one").await;
    let mut spec = pool("huge", 1, 1);
    spec.resources
        .requests
        .insert("cpu".to_owned(), "100k".parse().unwrap());
    spec.pending_threshold = Some(Duration::from_secs(1));
    stage.records.create(spec);
    stage
        .records
        .says("huge", "which has been pending since")
        .await;
    stage.records.says("huge", "Unschedulable").await;
    let alarmed = stage.until("an Event tells of the Pod", async || {
        let events = stage.api::<Event>().list(&ListParams::default()).await;
        let mut events = events.unwrap().items.into_iter();
        events.any(|event| event.reason.as_deref() == Some("PodAlarm"))
    });
    alarmed.await;
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_told_in_the_message_and_the_pool_runs_when_it_is_lifted() {
    let stage = Stage::new().await;
    stage
        .api::<ResourceQuota>()
        .create(&PostParams::default(), &quota(1))
        .await
        .unwrap();
    let running = stage.start("one").await;
    stage.records.create(pool("fixed", 2, 2));
    stage.records.says("fixed", "exceeded quota").await;
    stage.records.create(pool("scaled", 1, 2));
    stage.records.says("scaled", "exceeded quota").await;
    stage
        .api::<ResourceQuota>()
        .delete("few", &DeleteParams::default())
        .await
        .unwrap();
    stage.records.running("fixed", 2).await;
    stage.records.running("scaled", 1).await;
    assert_eq!(stage.records.state("fixed").unwrap().msg, "Running");
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evicted_pods_are_replaced_in_both_kinds_of_pool() {
    let stage = Stage::new().await;
    let running = stage.start("one").await;
    stage.records.create(pool("fixed", 1, 1));
    stage.records.create(pool("scaled", 1, 2));
    stage.records.running("fixed", 1).await;
    stage.records.running("scaled", 1).await;
    let before: Vec<_> = stage
        .pods()
        .await
        .iter()
        .map(kube::ResourceExt::name_any)
        .collect();
    for name in &before {
        stage
            .api::<Pod>()
            .evict(name, &EvictParams::default())
            .await
            .unwrap();
    }
    stage
        .until_pods(|pods| {
            pods.len() == 2 && pods.iter().all(|pod| !before.contains(&pod.name_any()))
        })
        .await;
    stage.records.running("fixed", 1).await;
    stage.records.running("scaled", 1).await;
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_somebody_else_deletes_fails_its_pool_until_it_is_updated() {
    let stage = Stage::new().await;
    let running = stage.start("one").await;
    stage.records.create(pool("fixed", 1, 1));
    stage.records.running("fixed", 1).await;
    stage
        .api::<Deployment>()
        .delete("function-agent-fixed", &DeleteParams::default())
        .await
        .unwrap();
    stage.records.says("fixed", VANISHED).await;
    assert_eq!(
        stage.records.state("fixed").unwrap().status,
        PoolStatus::Failed
    );
    stage
        .records
        .change("fixed", PoolStatus::PendingUpdate, |_| ());
    stage.records.running("fixed", 1).await;
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_of_somebody_else_is_left_alone() {
    let stage = Stage::new().await;
    let theirs: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "function-agent-mine"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10"}]},
        }},
    }))
    .unwrap();
    stage
        .api::<Deployment>()
        .create(&PostParams::default(), &theirs)
        .await
        .unwrap();
    let running = stage.start("one").await;
    stage.records.create(pool("mine", 1, 1));
    stage.records.says("mine", "pool already exists").await;
    stage
        .records
        .change("mine", PoolStatus::PendingDeletion, |_| ());
    stage.records.until("mine", |state| state.is_none()).await;
    assert_eq!(stage.counts().await.0, 1);
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_of_somebody_else_is_left_alone() {
    let stage = Stage::new().await;
    let theirs: HorizontalPodAutoscaler = serde_json::from_value(json!({
        "metadata": {"name": "function-agent-mine-hpa"},
        "spec": {"maxReplicas": 9, "scaleTargetRef": {"kind": "Deployment", "name": "theirs"}},
    }))
    .unwrap();
    let scalers = stage.api::<HorizontalPodAutoscaler>();
    scalers
        .create(&PostParams::default(), &theirs)
        .await
        .unwrap();
    let running = stage.start("one").await;
    let mut pool = pool("mine", 1, 1);
    pool.autoscaler = Some(json!({"maxReplicas": 3}));
    stage.records.create(pool);
    stage.records.says("mine", "create HPA failed: ").await;
    let found = scalers.get("function-agent-mine-hpa").await.unwrap();
    assert_eq!(found.spec.unwrap().max_replicas, 9);
    stage
        .records
        .change("mine", PoolStatus::PendingDeletion, |_| ());
    stage.records.until("mine", |state| state.is_none()).await;
    running.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_no_pool_is_removed() {
    let stage = Stage::new().await;
    let first = stage.start("one").await;
    stage.records.create(pool("lost", 1, 2));
    stage.records.running("lost", 1).await;
    first.stop().await;
    // The record goes while nobody looks.
    let mut stage = stage;
    stage.records = MemoryRecords::new();
    let second = stage.start("two").await;
    stage.until_pods(<[Pod]>::is_empty).await;
    second.stop().await;
    stage.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_processes_acts_and_another_takes_over() {
    let stage = Stage::new().await;
    let (one, two) = (stage.start("one").await, stage.start("two").await);
    stage.records.create(pool("scaled", 3, 5));
    stage.records.running("scaled", 3).await;
    assert!(one.handle.leads() != two.handle.leads());
    let (leader, other) = if one.handle.leads() {
        (one, two)
    } else {
        (two, one)
    };
    let elsewhere = other
        .handle
        .grow(&"scaled".parse().unwrap(), "a")
        .unwrap_err();
    assert!(matches!(elsewhere, GrowError::Elsewhere(holder) if !holder.is_empty()));
    leader.kill();
    stage
        .records
        .change("scaled", PoolStatus::PendingUpdate, |spec| spec.size = 4);
    stage.records.running("scaled", 4).await;
    assert_eq!(stage.pods().await.len(), 4);
    other.stop().await;
    stage.leave().await;
}
