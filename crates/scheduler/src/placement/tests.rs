use bugle_types::pool::PoolChoice;
use bugle_types::{CpuMillis, MemoryMib};
use proptest::prelude::*;

use super::*;

fn id(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn view(name: &str, cpu: u64, memory: u64) -> NodeView {
    NodeView {
        id: id(name),
        capacity: Capacity {
            cpu,
            memory,
            custom: BTreeMap::new(),
        },
        labels: BTreeMap::new(),
        pool: None,
        group: None,
        health: Health::Live,
    }
}

fn resources(cpu: u32, memory: u64) -> Resources {
    Resources {
        cpu: CpuMillis(cpu),
        memory: MemoryMib(memory),
        custom: Vec::new(),
    }
}

/// Places instances one after the other, each with the next number.
struct World {
    placement: Placement,
    next: u128,
    choice: PoolChoice,
}

impl World {
    fn new(tenancy: Tenancy, nodes: Vec<NodeView>) -> Self {
        let mut placement = Placement::new(tenancy);
        for node in nodes {
            placement.join(node);
        }
        Self {
            placement,
            next: 0,
            choice: PoolChoice::default(),
        }
    }

    fn shared(nodes: Vec<NodeView>) -> Self {
        Self::new(Tenancy::Shared, nodes)
    }

    fn place_for(&mut self, tenant: &str, resources: &Resources) -> Result<String, NoPlace> {
        self.next += 1;
        let tenant: TenantId = tenant.parse().unwrap();
        let request = Request {
            instance: InstanceId(self.next),
            tenant: &tenant,
            resources,
            choice: &self.choice,
            pool: PoolRule::First,
        };
        self.placement.place(&request).map(|node| node.to_string())
    }

    fn place(&mut self, resources: &Resources) -> Result<String, NoPlace> {
        self.place_for("t1", resources)
    }
}

#[test]
fn the_least_loaded_node_is_taken() {
    let mut world = World::shared(vec![view("a", 4000, 4096), view("b", 8000, 8192)]);
    let one = resources(1000, 1024);
    let mut counts = BTreeMap::new();
    for _ in 0..12 {
        *counts.entry(world.place(&one).unwrap()).or_insert(0) += 1;
    }
    assert_eq!(
        counts,
        BTreeMap::from([("a".to_owned(), 4), ("b".to_owned(), 8)])
    );
    let full = world.place(&one).unwrap_err();
    assert_eq!(
        full.to_string(),
        "none of 2 nodes has room for an instance with 1000m CPU and 1024 MiB"
    );
    world.placement.release(InstanceId(1));
    assert!(world.place(&one).is_ok(), "what is given back can be had");
}

#[test]
fn what_no_node_could_ever_hold_is_told_apart_from_what_is_full() {
    let mut world = World::shared(vec![view("a", 4000, 4096)]);
    let error = world.place(&resources(5000, 128)).unwrap_err();
    assert!(
        matches!(error, NoPlace::TooLarge { nodes: 1, .. }),
        "{error}"
    );
    let mut world = World::shared(Vec::new());
    assert_eq!(world.place(&resources(1, 1)), Err(NoPlace::NoNodes));
}

#[test]
fn a_node_that_drains_or_is_dead_gets_nothing() {
    let mut world = World::shared(vec![view("a", 4000, 4096), view("b", 4000, 4096)]);
    for health in [Health::Draining, Health::Dead] {
        world.placement.set_health(&id("a"), health);
        for _ in 0..2 {
            assert_eq!(world.place(&resources(100, 100)).unwrap(), "b");
        }
    }
    world.placement.set_health(&id("a"), Health::Live);
    assert_eq!(world.place(&resources(100, 100)).unwrap(), "a");
}

#[test]
fn groups_are_tried_in_order_and_others_are_forbidden_unless_any_will_do() {
    let mut gold = view("gold", 1000, 1024);
    gold.group = Some("gold".to_owned());
    let mut silver = view("silver", 1000, 1024);
    silver.labels.insert("silver".to_owned(), "yes".to_owned());
    let mut world = World::shared(vec![view("plain", 9000, 9216), silver, gold]);
    let one = resources(1000, 1024);
    world.choice = PoolChoice::new("", "gold, silver");
    assert_eq!(world.place(&one).unwrap(), "gold");
    assert_eq!(world.place(&one).unwrap(), "silver");
    assert!(matches!(
        world.place(&one),
        Err(NoPlace::Full { nodes: 2, .. })
    ));
    world.choice = PoolChoice::new("", "gold,unUseAntiOtherLabels");
    assert_eq!(world.place(&one).unwrap(), "plain");
    world.choice = PoolChoice::new("", "bronze");
    let error = world.place(&one).unwrap_err().to_string();
    assert!(error.contains("no node is in the groups bronze"), "{error}");
}

#[test]
fn nodes_of_the_functions_own_pool_come_first_and_are_not_the_only_ones() {
    let mut own = view("own", 1000, 1024);
    own.pool = Some("pool1".to_owned());
    let mut world = World::shared(vec![view("a", 9000, 9216), own]);
    world.choice = PoolChoice::new("pool1", "");
    let one = resources(1000, 1024);
    assert_eq!(world.place(&one).unwrap(), "own");
    assert_eq!(world.place(&one).unwrap(), "a");
}

#[test]
fn the_instances_of_a_tenant_are_spread_over_nodes_that_are_about_equally_loaded() {
    let nodes = (0..4).map(|n| view(&format!("n{n}"), 100_000, 100_000));
    let mut world = World::shared(nodes.collect());
    let small = resources(100, 100);
    for tenant in ["t1", "t2", "t3"] {
        let nodes: BTreeSet<String> = (0..4)
            .map(|_| world.place_for(tenant, &small).unwrap())
            .collect();
        assert_eq!(nodes.len(), 4, "{tenant} is on every node");
    }
}

#[test]
fn isolated_tenants_never_meet() {
    let nodes = vec![view("a", 4000, 4096), view("b", 4000, 4096)];
    let mut world = World::new(Tenancy::Isolated, nodes);
    let one = resources(1000, 1024);
    let first = world.place_for("t1", &one).unwrap();
    let second = world.place_for("t2", &one).unwrap();
    assert_ne!(first, second);
    assert!(matches!(
        world.place_for("t3", &one),
        Err(NoPlace::Full { .. })
    ));
    world.placement.release(InstanceId(1));
    assert_eq!(
        world.place_for("t3", &one).unwrap(),
        first,
        "its mark is gone with it"
    );
}

#[test]
fn devices_are_counted_and_may_be_named_by_a_pattern() {
    let mut with = view("npu", 64_000, 65_536);
    let device = "NPU/Ascend910B/count".to_owned();
    with.capacity.custom.insert(device, 8000);
    let mut world = World::shared(vec![view("plain", 64_000, 65_536), with]);
    let mut wants = resources(1000, 1024);
    wants.custom = vec![("NPU/Ascend910.*/count".to_owned(), 4000)];
    assert_eq!(world.place(&wants).unwrap(), "npu");
    assert_eq!(world.place(&wants).unwrap(), "npu");
    let error = world.place(&wants).unwrap_err();
    assert!(
        error.to_string().ends_with("4 NPU/Ascend910.*/count"),
        "{error}"
    );
    world.placement.release(InstanceId(2));
    assert_eq!(world.place(&wants).unwrap(), "npu");
}

#[test]
fn what_a_node_says_it_runs_is_counted_even_beyond_its_size() {
    let mut world = World::shared(vec![view("a", 1000, 1024)]);
    let tenant = TenantId::default();
    let choice = PoolChoice::default();
    let large = resources(3000, 3072);
    let request = Request {
        instance: InstanceId(900),
        tenant: &tenant,
        resources: &large,
        choice: &choice,
        pool: PoolRule::First,
    };
    assert!(world.placement.adopt(&id("a"), &request));
    assert!(!world.placement.adopt(&id("a"), &request), "only once");
    assert!(!world.placement.adopt(&id("b"), &request), "nowhere");
    assert!(world.place(&resources(1, 1)).is_err());
    let gone = world.placement.leave(&id("a"));
    assert_eq!(gone, BTreeSet::from([InstanceId(900)]));
    assert!(world.placement.is_empty());
}

#[test]
fn a_node_that_joins_again_keeps_what_runs_on_it() {
    let mut world = World::shared(vec![view("a", 1000, 1024)]);
    assert_eq!(world.place(&resources(1000, 1024)).unwrap(), "a");
    let mut larger = view("a", 2000, 2048);
    larger.group = Some("gold".to_owned());
    world.placement.join(larger);
    world.choice = PoolChoice::new("", "gold");
    assert_eq!(world.place(&resources(1000, 1024)).unwrap(), "a");
    assert!(world.place(&resources(1000, 1024)).is_err());
}

/// What may happen to the nodes.
#[derive(Clone, Debug)]
enum Step {
    Join(usize, u64, u64),
    Leave(usize),
    Health(usize, Health),
    Place(u32, u64, usize),
    Release(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let health = prop_oneof![
        Just(Health::Live),
        Just(Health::Draining),
        Just(Health::Dead)
    ];
    prop_oneof![
        1 => (0..12_usize, 1..8_u64, 1..8_u64).prop_map(|(n, c, m)| Step::Join(n, c * 1000, m * 512)),
        1 => (0..12_usize).prop_map(Step::Leave),
        1 => (0..12_usize, health).prop_map(|(n, health)| Step::Health(n, health)),
        8 => (1..30_u32, 1..20_u64, 0..3_usize).prop_map(|(c, m, t)| Step::Place(c * 100, m * 64, t)),
        4 => (0..200_usize).prop_map(Step::Release),
    ]
}

proptest! {
    /// Against books of its own, which go through all nodes for each decision.
    #[test]
    fn decisions_agree_with_a_search_through_all_nodes(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::shared(Vec::new());
        let mut books: BTreeMap<String, (NodeView, Vec<(InstanceId, Resources)>)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Join(n, cpu, memory) => {
                    let name = format!("n{n:02}");
                    let used = books.get(&name).map(|(_, runs)| used(runs)).unwrap_or_default();
                    // A node that is there does not shrink below what it runs.
                    let view = view(&name, cpu.max(used.0), memory.max(used.1));
                    books.entry(name).or_insert_with(|| (view.clone(), Vec::new())).0 = view.clone();
                    world.placement.join(view);
                }
                Step::Leave(n) => {
                    let gone = world.placement.leave(&id(&format!("n{n:02}")));
                    let known = books.remove(&format!("n{n:02}")).map(|(_, runs)| runs);
                    prop_assert_eq!(gone.len(), known.unwrap_or_default().len());
                }
                Step::Health(n, health) => {
                    world.placement.set_health(&id(&format!("n{n:02}")), health);
                    if let Some((view, _)) = books.get_mut(&format!("n{n:02}")) {
                        view.health = health;
                    }
                }
                Step::Place(cpu, memory, tenant) => {
                    let wanted = resources(cpu, memory);
                    let fits = books.values().any(|(view, runs)| fits(view, runs, &wanted));
                    match world.place_for(["t1", "t2", "t3"][tenant], &wanted) {
                        Ok(node) => {
                            let (view, runs) = books.get_mut(&node).expect("it is a known node");
                            prop_assert!(self::fits(view, runs, &wanted), "{node} had no room");
                            runs.push((InstanceId(world.next), wanted));
                        }
                        Err(why) => prop_assert!(!fits, "there was room: {why}"),
                    }
                }
                Step::Release(at) => {
                    let runs = books.values_mut().map(|(_, runs)| runs);
                    let mut all = runs.filter(|runs| !runs.is_empty());
                    if let Some(runs) = all.nth(at % 12) {
                        let (instance, _) = runs.remove(at % runs.len());
                        world.placement.release(instance);
                    }
                }
            }
            for status in world.placement.nodes() {
                let (view, runs) = &books[status.view.id.as_str()];
                prop_assert_eq!((status.cpu_used, status.memory_used), used(runs));
                prop_assert!(status.cpu_used <= view.capacity.cpu);
                prop_assert!(status.memory_used <= view.capacity.memory);
                prop_assert_eq!(status.instances, runs.len());
            }
        }
    }
}

fn used(runs: &[(InstanceId, Resources)]) -> (u64, u64) {
    let cpu = runs.iter().map(|(_, r)| u64::from(r.cpu.0)).sum();
    let memory = runs.iter().map(|(_, r)| r.memory.0).sum();
    (cpu, memory)
}

fn fits(view: &NodeView, runs: &[(InstanceId, Resources)], wanted: &Resources) -> bool {
    let (cpu, memory) = used(runs);
    view.health == Health::Live
        && view.capacity.cpu >= cpu + u64::from(wanted.cpu.0)
        && view.capacity.memory >= memory + wanted.memory.0
}
