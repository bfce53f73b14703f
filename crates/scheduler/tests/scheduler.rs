//! The scheduler with simulated instances and paused time.

use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{
    BoxFuture, CallRequest, Driver, ExitCause, StartError, StartRequest, Started,
};
use bugle_scheduler::testing::{Script, SimDriver, spec};
use bugle_scheduler::{AcquireError, Config, Demand, Function, Lease, Metrics, Outcome, Scheduler};
use bugle_types::FunctionSpec;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const START: Duration = Duration::from_millis(100);

fn platform() -> (Scheduler, Arc<SimDriver>) {
    let script: Script = Arc::new(|_| (Duration::from_millis(50), "1".to_owned()));
    let driver = SimDriver::new(START, script);
    let scheduler = Scheduler::new(
        Config::default(),
        Arc::clone(&driver) as _,
        Metrics::default(),
    );
    (scheduler, driver)
}

fn add(scheduler: &Scheduler, spec: FunctionSpec) -> Function {
    let id = spec.id.clone();
    scheduler.upsert(spec);
    scheduler.find(&id).expect("it was just added")
}

async fn acquire(function: &Function) -> Result<Lease, AcquireError> {
    let deadline = Instant::now() + Duration::from_mins(1);
    function
        .acquire(Demand {
            resources: None,
            label: None,
            place: None,
            deadline,
        })
        .await
}

async fn call(function: &Function) -> Result<String, String> {
    let lease = acquire(function).await.map_err(|error| error.to_string())?;
    let request = CallRequest {
        request: "r".into(),
        body: bytes::Bytes::new(),
        meta: bytes::Bytes::new(),
        json: true,
        timeout: Duration::from_secs(10),
        stream: None,
    };
    let generation = lease.spec().generation.0.to_string();
    lease
        .instance()
        .call(request)
        .await
        .map_err(|error| error.to_string())?;
    Ok(generation)
}

#[tokio::test(start_paused = true)]
async fn a_herd_on_a_cold_function_starts_exactly_what_it_needs() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 100, 0, 100));
    let mut calls = JoinSet::new();
    for _ in 0..1000 {
        let function = function.clone();
        calls.spawn(async move { call(&function).await });
    }
    for outcome in calls.join_all().await {
        assert_eq!(outcome.unwrap(), "1");
    }
    assert_eq!(driver.started(), 10);
    assert!(
        driver
            .living()
            .iter()
            .all(|instance| instance.most_at_once() <= 100)
    );
}

#[tokio::test(start_paused = true)]
async fn a_warm_call_neither_waits_nor_starts() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 2, 0, 5));
    let first = acquire(&function).await.unwrap();
    assert!(first.cold.is_some_and(|cold| cold.total >= START));
    let before = Instant::now();
    let second = acquire(&function).await.unwrap();
    assert_eq!(
        (second.cold, second.queued, before.elapsed()),
        (None, Duration::ZERO, Duration::ZERO)
    );
    assert_eq!(driver.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_frees_its_place() {
    let (scheduler, _) = platform();
    let function = add(&scheduler, spec("f", "1", 1, 0, 1));
    let held = acquire(&function).await.unwrap();
    {
        let waiting = acquire(&function);
        tokio::select! {
            biased;
            _ = waiting => panic!("the only slot is taken"),
            () = sleep(Duration::from_millis(1)) => {}
        }
    }
    assert_eq!(function.status().queued, 0);
    drop(held);
    acquire(&function).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slot_given_to_a_client_that_just_left_goes_to_the_next() {
    let (scheduler, _) = platform();
    let function = add(&scheduler, spec("f", "1", 1, 0, 1));
    let held = acquire(&function).await.unwrap();
    let mut first = Box::pin(acquire(&function));
    assert!(futures_poll(&mut first).await.is_none());
    // The slot is assigned while nobody polls the future, which is then dropped.
    drop(held);
    drop(first);
    assert!(acquire(&function).await.is_ok());
}

async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_under_load_loses_no_call_and_ends_with_the_new_code() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 2, 0, 4));
    let mut calls = JoinSet::new();
    for number in 0..500_u64 {
        let function = function.clone();
        calls.spawn(async move {
            sleep(Duration::from_millis(number * 5)).await;
            (number, call(&function).await)
        });
    }
    sleep(Duration::from_secs(1)).await;
    scheduler.upsert(spec("f", "2", 2, 0, 4));
    let outcomes = calls.join_all().await;
    for (number, outcome) in outcomes {
        let generation = outcome.unwrap();
        if number * 5 > 2000 {
            assert_eq!(
                generation, "2",
                "call {number} came more than a second after the update"
            );
        }
    }
    sleep(Duration::from_secs(1)).await;
    assert!(
        driver
            .living()
            .iter()
            .all(|instance| instance.generation == "2")
    );
}

#[tokio::test(start_paused = true)]
async fn everything_idles_away() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 1, 0, 4));
    call(&function).await.unwrap();
    assert_eq!(driver.living().len(), 1);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(driver.living().len(), 0);
    call(&function).await.unwrap();
    assert_eq!(driver.started(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_crashed_instance_is_replaced_for_the_next_call() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 1, 0, 4));
    call(&function).await.unwrap();
    driver.living()[0].crash(ExitCause::Signal(11));
    sleep(Duration::from_millis(1)).await;
    call(&function).await.unwrap();
    assert_eq!(driver.started(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_overdue_lease_ends_its_instance() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 2, 0, 4));
    let lease = acquire(&function).await.unwrap();
    lease.overdue();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(driver.living().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_tells_all_who_waited_for_it() {
    let (scheduler, driver) = platform();
    let error = StartError::Initialization {
        message: "boom".to_owned(),
        trace: None,
    };
    driver.fail_with(Some(error.clone()));
    let function = add(&scheduler, spec("f", "1", 100, 0, 4));
    let (one, two) = tokio::join!(acquire(&function), acquire(&function));
    assert_eq!(one.unwrap_err(), AcquireError::Start(error.clone()));
    assert_eq!(two.unwrap_err(), AcquireError::Start(error));
    assert!(function.status().last_start_error.is_some());
    driver.fail_with(None);
    sleep(Duration::from_secs(1)).await;
    acquire(&function).await.unwrap();
    assert!(function.status().last_start_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_calls_finish_and_ends_instances() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 1, 1, 4));
    sleep(START * 2).await;
    let lease = acquire(&function).await.unwrap();
    let stopping = {
        let scheduler = scheduler.clone();
        tokio::spawn(async move { scheduler.shutdown(Duration::from_secs(5)).await })
    };
    sleep(Duration::from_millis(10)).await;
    assert_eq!(
        acquire(&function).await.unwrap_err(),
        AcquireError::ShuttingDown
    );
    assert_eq!(driver.living().len(), 1, "it still runs a call");
    drop(lease);
    stopping.await.unwrap();
    assert_eq!(driver.living().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_longer_than_its_grace() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 1, 0, 4));
    let _lease = acquire(&function).await.unwrap();
    let before = Instant::now();
    scheduler.shutdown(Duration::from_secs(5)).await;
    assert_eq!(before.elapsed(), Duration::from_secs(5));
    assert_eq!(driver.living().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_removed_function_is_gone_for_everybody() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 1, 1, 4));
    sleep(START * 2).await;
    let id = function.spec().id.clone();
    scheduler.remove(&id);
    assert!(scheduler.find(&id).is_none());
    assert_eq!(acquire(&function).await.unwrap_err(), AcquireError::Removed);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(driver.living().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_removed_function_that_still_runs_a_call_does_not_hold_up_a_shutdown() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 1, 0, 4));
    let _lease = acquire(&function).await.unwrap();
    scheduler.remove(&function.spec().id);
    let before = Instant::now();
    scheduler.shutdown(Duration::from_secs(5)).await;
    assert_eq!(before.elapsed(), Duration::from_secs(5));
    assert_eq!(driver.living().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_function_that_is_added_after_the_shutdown_takes_no_calls() {
    let (scheduler, driver) = platform();
    scheduler.shutdown(Duration::from_secs(5)).await;
    let function = add(&scheduler, spec("f", "1", 1, 2, 4));
    assert_eq!(
        acquire(&function).await.unwrap_err(),
        AcquireError::ShuttingDown
    );
    sleep(START * 2).await;
    assert_eq!(driver.started(), 0, "nor does its minimum start");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_abandons_starts() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 1, 3, 4));
    sleep(START / 2).await;
    let before = Instant::now();
    scheduler.shutdown(Duration::from_secs(5)).await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!((driver.started(), driver.living().len()), (3, 0));
    assert_eq!(function.status().instances.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_gives_the_next_call_another_instance() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 1, 0, 4));
    let lease = acquire(&function).await.unwrap();
    let dead = lease.instance().id();
    driver.living()[0].crash(ExitCause::Code(1));
    // Its caller knows before the scheduler does.
    lease.lost();
    assert_ne!(acquire(&function).await.unwrap().instance().id(), dead);
}

#[tokio::test(start_paused = true)]
async fn a_minimum_is_restored_after_a_crash() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 1, 2, 4));
    sleep(START * 2).await;
    call(&function).await.unwrap();
    driver.living()[0].crash(ExitCause::Signal(9));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(driver.living().len(), 2);
    sleep(Duration::from_mins(10)).await;
    assert_eq!(
        driver.living().len(),
        2,
        "reserved instances do not idle away"
    );
}

/// A driver with a bug.
struct Panics;

impl Driver for Panics {
    #[expect(clippy::panic, reason = "that is the bug")]
    fn start(&self, _: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        Box::pin(async { panic!("a bug of the driver") })
    }
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_panics_costs_calls_an_error_and_nothing_more() {
    let scheduler = Scheduler::new(Config::default(), Arc::new(Panics), Metrics::default());
    let function = add(&scheduler, spec("f", "1", 1, 0, 1));
    let error = acquire(&function).await.unwrap_err();
    assert!(matches!(
        error,
        AcquireError::Start(StartError::Platform(_))
    ));
    assert_eq!(function.status().instances.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn functions_that_nobody_calls_have_no_series() {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry);
    let script: Script = Arc::new(|_| (Duration::ZERO, "1".to_owned()));
    let scheduler = Scheduler::new(Config::default(), SimDriver::new(START, script), metrics);
    let function = add(&scheduler, spec("called", "1", 1, 0, 1));
    add(&scheduler, spec("idle", "1", 1, 0, 1));
    call(&function).await.unwrap();
    function.calls().count(Outcome::success, START);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("default/called/latest"), "{text}");
    assert!(!text.contains("idle"), "{text}");
    assert!(
        text.contains("bugle_instances{state=\"ready\"} 1"),
        "{text}"
    );
    assert!(text.contains("bugle_queue_depth 0"), "{text}");
}

/// A driver that has room after a while, or never.
struct Slow(Arc<SimDriver>, Duration);

impl Driver for Slow {
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        Box::pin(async move {
            sleep(self.1).await;
            self.0.start(request).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_a_pool_that_grows_and_others_only_as_long_as_ever() {
    let (_, driver) = platform();
    let config = Config {
        pool_wait: Duration::from_secs(150),
        ..Config::default()
    };
    let slow = Arc::new(Slow(driver, Duration::from_secs(110)));
    let scheduler = Scheduler::new(config, slow, Metrics::default());
    let mut pooled = spec("pooled", "1", 1, 0, 1);
    pooled.pool = bugle_types::pool::PoolChoice::new("p1", "");
    let pooled = add(&scheduler, pooled);
    let plain = add(&scheduler, spec("plain", "1", 1, 0, 1));
    let wait = async |function: &Function| {
        let begun = Instant::now();
        let deadline = begun + Duration::from_hours(1);
        let demand = Demand {
            resources: None,
            label: None,
            place: None,
            deadline,
        };
        let outcome = function.acquire(demand).await;
        (outcome.map(drop), begun.elapsed().as_secs())
    };
    let (first, second, other) = tokio::join!(wait(&pooled), wait(&pooled), wait(&plain));
    assert_eq!(first, (Ok(()), 110));
    assert_eq!(second.0, Ok(()), "it waited for the same instance");
    assert_eq!(other, (Err(AcquireError::Timeout), 30));
    // While nothing comes up for it, a call waits as long as any.
    let held = acquire(&pooled).await.unwrap();
    assert_eq!(wait(&pooled).await, (Err(AcquireError::Timeout), 30));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_says_where_gets_an_instance_that_was_made_there() {
    let (scheduler, driver) = platform();
    let function = add(&scheduler, spec("f", "1", 1, 0, 3));
    let call = async |groups: Option<&str>| {
        let place = groups.map(|groups| bugle_types::pool::PoolChoice::new("", groups));
        let demand = Demand {
            resources: None,
            label: None,
            place: place.map(Arc::new),
            deadline: Instant::now() + Duration::from_mins(1),
        };
        let lease = function.acquire(demand).await.unwrap();
        (lease.instance().id(), lease.spec().pool.groups.clone())
    };
    let (plain, nowhere) = call(None).await;
    let (gold, groups) = call(Some("gold")).await;
    assert!(nowhere.is_empty());
    assert_eq!(groups, ["gold"]);
    assert_ne!(plain, gold);
    assert_eq!(call(Some("gold")).await.0, gold, "it is used again");
    assert_eq!(call(None).await.0, plain);
    assert_eq!(driver.started(), 2);
}
