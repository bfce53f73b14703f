//! The machine over a store in memory, with processes that are promises.

use std::sync::atomic::{AtomicUsize, Ordering};

use bugle_api::{PoolInfo, PoolQuery, PoolRequest, PoolSelection, PoolsApi as _, ResourceAmounts};
use bugle_store::{MemoryStore, Store as _};
use tokio::sync::oneshot;

use super::*;

/// Makes processes that end when a test says so.
#[derive(Default)]
struct Promises {
    made: AtomicUsize,
    ends: Mutex<Vec<oneshot::Sender<()>>>,
    held: Arc<()>,
}

#[derive(Debug)]
struct Promise {
    end: Mutex<Option<oneshot::Receiver<()>>>,
    _held: Arc<()>,
}

impl Workshop for Promises {
    fn prepare(&self) -> BoxFuture<'_, Result<Option<Box<dyn Prepared>>, String>> {
        let (sender, receiver) = oneshot::channel();
        self.ends.lock().push(sender);
        self.made.fetch_add(1, Ordering::Relaxed);
        let promise: Box<dyn Prepared> = Box::new(Promise {
            end: Mutex::new(Some(receiver)),
            _held: Arc::clone(&self.held),
        });
        Box::pin(async move { Ok(Some(promise)) })
    }
}

impl Prepared for Promise {
    fn ended(&self) -> BoxFuture<'static, ()> {
        let receiver = self.end.lock().take();
        Box::pin(async move {
            if let Some(receiver) = receiver {
                _ = receiver.await;
            }
        })
    }

    fn lend(&self, _: &Runtime) -> bool {
        false
    }
}

fn request() -> PoolRequest {
    let amounts = Some([("cpu".to_owned(), "1".to_owned())].into());
    PoolRequest {
        id: "a".to_owned(),
        size: 2,
        resources: ResourceAmounts {
            limits: amounts.clone(),
            requests: amounts,
        },
        ..PoolRequest::default()
    }
}

/// Waits until the pool is as it should be; none when it is gone.
async fn becomes(pools: &Pools, good: impl Fn(Option<&PoolInfo>) -> bool) {
    let mut watch = pools.watch();
    let look = async {
        loop {
            let query = PoolQuery {
                which: PoolSelection::default(),
                window: Some((0, 1)),
            };
            let found = pools.pools(query).await.unwrap().pools.unwrap();
            if good(found.first()) {
                return;
            }
            watch.next().await.unwrap();
        }
    };
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, look)
        .await
        .expect("the pool becomes so");
}

#[tokio::test]
async fn a_pool_is_made_kept_and_taken_away() {
    let pools = Pools::new(Arc::new(MemoryStore::new()));
    let workshop = Arc::new(Promises::default());
    let room = Room {
        cpu_millis: 4000,
        memory_mib: 4096,
    };
    let machine = Machine::new(
        Config::default(),
        room,
        Arc::clone(&workshop) as _,
        Handle::current(),
    );
    let stop = CancellationToken::new();
    let running = tokio::spawn(machine.run(pools.clone(), None, stop.clone()));
    assert_eq!(pools.create_pools(vec![request()]).await.unwrap(), []);
    let ready = |count| {
        move |pool: Option<&PoolInfo>| {
            pool.is_some_and(|pool| pool.status == 4 && pool.ready_count == count)
        }
    };
    becomes(&pools, ready(2)).await;
    let dead = workshop.ends.lock().remove(0);
    dead.send(()).unwrap();
    while workshop.made.load(Ordering::Relaxed) < 3 {
        tokio::task::yield_now().await;
    }
    becomes(&pools, ready(2)).await;
    let which = PoolSelection {
        id: Some("a".to_owned()),
        group: None,
    };
    pools.delete_pools(which).await.unwrap();
    becomes(&pools, |pool| pool.is_none()).await;
    let held = Arc::strong_count(&workshop.held);
    assert_eq!(held, 1, "every process was let go");
    stop.cancel();
    running.await.unwrap();
}

/// The one of two machines that keeps a pool: told by a test.
#[derive(Clone)]
struct Whose {
    number: u64,
    keeper: watch::Sender<u64>,
}

impl Keeper for Whose {
    fn keeps(&self, _: &PoolId) -> bool {
        *self.keeper.borrow() == self.number
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.keeper.subscribe()
    }
}

#[tokio::test]
async fn two_machines_of_different_size_make_a_pool_once_and_come_to_rest() {
    let store = Arc::new(MemoryStore::new());
    let pools = Pools::new(Arc::clone(&store) as _);
    let keeper = watch::Sender::new(0);
    let stop = CancellationToken::new();
    let (mut running, mut workshops) = (Vec::new(), Vec::new());
    for (number, cpu_millis) in [(0, 4000), (1, 1000)] {
        let workshop = Arc::new(Promises::default());
        let room = Room {
            cpu_millis,
            memory_mib: 4096,
        };
        let machine = Machine::new(
            Config::default(),
            room,
            Arc::clone(&workshop) as _,
            Handle::current(),
        );
        let keeper = Arc::new(Whose {
            number,
            keeper: keeper.clone(),
        });
        running.push(tokio::spawn(machine.run(
            pools.clone(),
            Some(keeper),
            stop.clone(),
        )));
        workshops.push(workshop);
    }
    assert_eq!(pools.create_pools(vec![request()]).await.unwrap(), []);
    let ready = |pool: Option<&PoolInfo>| pool.is_some_and(|pool| pool.ready_count == 2);
    becomes(&pools, ready).await;
    let made = |of: usize| workshops[of].made.load(Ordering::Relaxed);
    assert_eq!((made(0), made(1)), (2, 0));
    keeper.send_replace(1);
    let short = |pool: Option<&PoolInfo>| {
        pool.is_some_and(|pool| pool.ready_count == 1 && pool.msg.contains("pools.cpu_millis"))
    };
    becomes(&pools, short).await;
    let revision = async || {
        let range = store.range(b"/", None, 10).await.unwrap();
        range.revision
    };
    let before = revision().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(revision().await, before, "nobody has anything more to say");
    stop.cancel();
    for running in running {
        running.await.unwrap();
    }
}
