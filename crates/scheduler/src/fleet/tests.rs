use bugle_types::{CpuMillis, MemoryMib, Resources};

use super::*;
use crate::placement::Capacity;
use crate::testing::{SimDriver, spec};

fn node(name: &str, cpu: u64) -> NodeView {
    NodeView {
        id: name.parse().unwrap(),
        capacity: Capacity {
            cpu,
            memory: 65_536,
            custom: BTreeMap::new(),
        },
        labels: BTreeMap::new(),
        pool: None,
        group: None,
        health: Health::Live,
    }
}

fn driver() -> Arc<SimDriver> {
    SimDriver::new(
        Duration::ZERO,
        Arc::new(|_| (Duration::ZERO, "1".to_owned())),
    )
}

fn request(id: u128, pool: Option<&str>) -> StartRequest {
    let mut spec = spec("f", "1", 1, 0, 9);
    spec.pool = bugle_types::pool::PoolChoice::new(pool.unwrap_or_default(), "");
    StartRequest {
        id: InstanceId(id),
        spec: Arc::new(spec),
        resources: Resources {
            cpu: CpuMillis(1000),
            memory: MemoryMib(128),
            custom: Vec::new(),
        },
        label: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_waits_for_room_and_then_says_why_there_is_none() {
    let fleet = Fleet::new(FleetConfig::default(), None);
    fleet.join(node("a", 1000), driver());
    let first = fleet.start(request(1, None)).await.unwrap();
    let begin = Instant::now();
    let error = fleet.start(request(2, None)).await.unwrap_err();
    assert_eq!(begin.elapsed(), Duration::from_secs(5));
    let expected = "none of 1 nodes has room for an instance with 1000m CPU and 128 MiB";
    assert_eq!(error, StartError::NoRoom(expected.to_owned()));
    let third = fleet.start(request(3, None));
    let release = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(first);
    };
    let (third, ()) = tokio::join!(third, release);
    assert!(third.is_ok(), "the end of the first makes room");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_takes_what_waits_for_room() {
    let fleet = Fleet::new(FleetConfig::default(), None);
    let joins = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        fleet.join(node("a", 1000), driver());
    };
    let (started, ()) = tokio::join!(fleet.start(request(1, None)), joins);
    assert!(started.is_ok());
    assert_eq!(fleet.nodes()[0].instances, 1);
}

/// A pool that grows, or does not.
#[derive(Default)]
struct Pool {
    asked: Mutex<Vec<InstanceId>>,
    refuses: bool,
}

impl Growth for Pool {
    fn has(&self, pool: &PoolId) -> bool {
        pool.as_str() == "pool1"
    }

    fn grow(&self, pool: &PoolId, instance: InstanceId) -> Result<(), String> {
        assert_eq!(pool.as_str(), "pool1");
        self.asked.lock().push(instance);
        if self.refuses {
            return Err("failed to scale up pod: it is full".to_owned());
        }
        Ok(())
    }

    fn trouble(&self, _: &PoolId) -> Option<String> {
        Some("ErrImagePull".to_owned())
    }
}

fn of_pool(name: &str, pool: &str) -> NodeView {
    NodeView {
        pool: Some(pool.to_owned()),
        ..node(name, 1000)
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_without_room_makes_its_pool_grow_and_waits_two_minutes() {
    let growth = Arc::new(Pool::default());
    let fleet = Fleet::new(FleetConfig::default(), Some(Arc::clone(&growth) as _));
    let begin = Instant::now();
    let error = fleet.start(request(1, Some("pool1"))).await.unwrap_err();
    assert_eq!(begin.elapsed(), Duration::from_mins(2));
    let StartError::NoRoom(reason) = error else {
        panic!("{error:?}");
    };
    assert!(reason.contains("no node takes instances"), "{reason}");
    assert!(reason.ends_with("; pool pool1: ErrImagePull"), "{reason}");
    let asked = growth.asked.lock();
    assert!(asked.iter().all(|instance| *instance == InstanceId(1)));
}

#[tokio::test(start_paused = true)]
async fn a_start_whose_pool_does_not_grow_fails_soon_and_says_so() {
    let growth = Arc::new(Pool {
        refuses: true,
        ..Pool::default()
    });
    let fleet = Fleet::new(FleetConfig::default(), Some(growth));
    fleet.join(of_pool("a", "pool1"), driver());
    let _first = fleet.start(request(1, Some("pool1"))).await.unwrap();
    let begin = Instant::now();
    let error = fleet.start(request(2, Some("pool1"))).await.unwrap_err();
    assert_eq!(begin.elapsed(), Duration::from_secs(5));
    let StartError::NoRoom(reason) = error else {
        panic!("{error:?}");
    };
    assert!(
        reason.contains("has room") && reason.contains("; failed to scale up pod"),
        "{reason}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_function_that_names_a_pool_runs_on_its_nodes_alone() {
    let fleet = Fleet::new(FleetConfig::default(), Some(Arc::new(Pool::default())));
    fleet.join(of_pool("other", "pool2"), driver());
    let joins = async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        fleet.join(of_pool("own", "pool1"), driver());
    };
    let (started, ()) = tokio::join!(fleet.start(request(1, Some("pool1"))), joins);
    let _held = started.unwrap();
    assert_eq!(fleet.nodes()[1].instances, 1, "{:?}", fleet.nodes());
    // Of a pool that nobody knows there is nothing to wait for.
    let started = fleet.start(request(2, Some("unknown"))).await;
    assert!(started.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_is_known_since_when_and_can_be_retired_while_it_is() {
    let fleet = Fleet::new(FleetConfig::default(), None);
    let id: NodeId = "a".parse().unwrap();
    fleet.join(node("a", 1000), driver());
    let joined = Instant::now();
    assert_eq!(fleet.nodes()[0].idle_since, Some(joined));
    let first = fleet.start(request(1, None)).await.unwrap();
    assert_eq!(fleet.nodes()[0].idle_since, None);
    assert!(!fleet.retire(&id), "it is busy");
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(first);
    assert_eq!(fleet.nodes()[0].idle_since, Some(Instant::now()));
    assert!(fleet.retire(&id));
    assert!(
        fleet.start(request(2, None)).await.is_err(),
        "it is retired"
    );
    fleet.open(&id);
    assert!(fleet.start(request(3, None)).await.is_ok());
    assert!(
        !fleet.retire(&"b".parse().unwrap()),
        "nobody knows that one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_closed_and_drained_meanwhile_stays_drained_when_it_is_opened() {
    let fleet = Fleet::new(FleetConfig::default(), None);
    let id: NodeId = "a".parse().unwrap();
    fleet.join(node("a", 1000), driver());
    let first = fleet.start(request(1, None)).await;
    fleet.close(&id);
    fleet.set_health(&id, Health::Live);
    assert!(fleet.start(request(2, None)).await.is_err(), "it is closed");
    drop(first);
    fleet.set_health(&id, Health::Draining);
    fleet.open(&id);
    assert!(
        fleet.start(request(3, None)).await.is_err(),
        "it is drained"
    );
    fleet.set_health(&id, Health::Live);
    assert!(fleet.start(request(4, None)).await.is_ok());
}
