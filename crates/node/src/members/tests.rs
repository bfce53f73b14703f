use bugle_store::MemoryStore;

use super::*;

struct Plain;

impl Seal for Plain {
    fn seal(&self, text: &str) -> Result<String, String> {
        Ok(format!("sealed {text}"))
    }
    fn open(&self, sealed: &str) -> Result<String, String> {
        sealed
            .strip_prefix("sealed ")
            .map(str::to_owned)
            .ok_or_else(String::new)
    }
}

async fn members(store: &Arc<dyn Store>) -> Members {
    Members::open(Arc::clone(store), &Plain).await.unwrap()
}

fn id(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn point() -> Vec<u8> {
    rcgen::KeyPair::generate()
        .unwrap()
        .public_key_raw()
        .to_vec()
}

#[tokio::test]
async fn a_token_admits_one_node_once_and_in_time() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let members = members(&store).await;
    let (token, _) = members.token(Duration::from_mins(1)).await.unwrap();
    let certificate = members.join(&token, &id("a"), &point()).await.unwrap();
    assert_eq!(members.who(&certificate).await.unwrap(), id("a"));
    let again = members.join(&token, &id("b"), &point()).await;
    assert!(matches!(again, Err(Error::Token)), "it was used");
    let (late, _) = members.token(Duration::ZERO).await.unwrap();
    let late = members.join(&late, &id("b"), &point()).await;
    assert!(matches!(late, Err(Error::Token)), "it has expired");
    let (other, _) = members.token(Duration::from_mins(1)).await.unwrap();
    let taken = members.join(&other, &id("a"), &point()).await;
    assert!(matches!(taken, Err(Error::Taken(_))), "the name is taken");
    members.join(&other, &id("b"), &point()).await.unwrap();
    assert_eq!(members.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_pod_joins_with_the_token_of_its_pool_once() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let members = members(&store).await;
    let token = members.pool_token("pool1");
    assert_eq!(token, self::members(&store).await.pool_token("pool1"));
    let (pod, key) = (("uid-1", "pool1"), point());
    let other = members.pool_token("pool2");
    let foreign = members.join_pod(&other, &id("a"), pod, &key).await;
    assert!(matches!(foreign, Err(Error::Token)), "of another pool");
    members.join_pod(&token, &id("a"), pod, &key).await.unwrap();
    let again = members.join_pod(&token, &id("a"), pod, &key).await;
    let certificate = again.expect("its answer may have been lost");
    let thief = members.join_pod(&token, &id("a"), pod, &point()).await;
    assert!(matches!(thief, Err(Error::Joined(_))), "of another key");
    assert_eq!(members.who(&certificate).await.unwrap(), id("a"));
    let pool = members.member(&id("a")).await.unwrap().unwrap();
    let pool = pool.pod.unwrap().pool;
    assert_eq!(pool, "pool1");
    let successor = ("uid-2", "pool1");
    let joined = members
        .join_pod(&token, &id("a"), successor, &point())
        .await;
    let _successor = joined.expect("a new Pod of the same name");
    assert!(matches!(
        members.who(&certificate).await,
        Err(Error::Certificate)
    ));
    let (once, _) = members.token(Duration::from_mins(1)).await.unwrap();
    members.join(&once, &id("b"), &point()).await.unwrap();
    let taken = members.join_pod(&token, &id("b"), pod, &point()).await;
    assert!(matches!(taken, Err(Error::Taken(_))), "it is no Pod");
}

#[tokio::test]
async fn a_drain_is_known_to_every_platform_of_the_store() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (one, two) = (members(&store).await, members(&store).await);
    let (token, _) = one.token(Duration::from_mins(1)).await.unwrap();
    let key = point();
    one.join(&token, &id("a"), &key).await.unwrap();
    one.set_draining(&id("a"), true).await.unwrap();
    two.renew(&id("a"), &key).await.unwrap();
    assert!(two.member(&id("a")).await.unwrap().unwrap().draining);
    two.set_draining(&id("a"), false).await.unwrap();
    assert!(!one.member(&id("a")).await.unwrap().unwrap().draining);
    let unknown = one.set_draining(&id("b"), true).await;
    assert!(matches!(unknown, Err(Error::Unknown(_))));
}

#[tokio::test]
async fn a_node_that_was_removed_or_renewed_is_not_known_by_its_old_certificate() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let known = members(&store).await;
    let (token, _) = known.token(Duration::from_mins(1)).await.unwrap();
    let key = point();
    let old = known.join(&token, &id("a"), &key).await.unwrap();
    let renewed = known.renew(&id("a"), &key).await.unwrap();
    assert!(matches!(known.who(&old).await, Err(Error::Certificate)));
    // Another platform on the same store is the same authority.
    let other = members(&store).await;
    assert_eq!(other.who(&renewed).await.unwrap(), id("a"));
    other.remove(&id("a")).await.unwrap();
    assert!(matches!(known.who(&renewed).await, Err(Error::Certificate)));
    assert!(matches!(
        known.remove(&id("a")).await,
        Err(Error::Unknown(_))
    ));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_hurts_no_other_node() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let members = members(&store).await;
    let (token, _) = members.token(Duration::from_mins(1)).await.unwrap();
    let certificate = members.join(&token, &id("good"), &point()).await.unwrap();
    let keys = [
        key(MEMBERS, "bad"),
        key(MEMBERS, "No Name"),
        key(TOKENS, "bad"),
    ];
    let then = keys.map(|key| Op::Put(key, "x".into())).to_vec();
    let when = Vec::new();
    store.txn(Txn { when, then }).await.unwrap();
    let listed = members.list().await.unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|(node, member)| (node.as_str(), member.is_some()))
        .collect();
    assert_eq!(listed, [("bad", false), ("good", true)]);
    assert_eq!(members.damaged.lock().len(), 2, "each is told of once");
    assert_eq!(members.who(&certificate).await.unwrap(), id("good"));
    members.token(Duration::from_mins(1)).await.unwrap();
    let swept = store.get(&key(TOKENS, "bad")).await.unwrap();
    assert_eq!(swept, None, "it admits nobody");
    members.remove(&id("bad")).await.unwrap();
    assert_eq!(members.list().await.unwrap().len(), 1);
}
