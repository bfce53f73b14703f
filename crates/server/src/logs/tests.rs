use super::*;
use bugle_instances::InstanceId;
use bugle_types::Version;

fn function(name: &str) -> Arc<FunctionId> {
    Arc::new(FunctionId {
        tenant: TenantId::default(),
        product: None,
        name: name.parse().unwrap(),
        version: Version::Draft,
    })
}

fn line(function: &Arc<FunctionId>, text: &str) -> LogLine {
    LogLine {
        function: Arc::clone(function),
        instance: InstanceId(1),
        request: None,
        stream: LogStream::Stdout,
        text: text.to_owned(),
    }
}

fn texts(entries: &[Arc<LogEntry>]) -> Vec<&str> {
    entries.iter().map(|entry| entry.text.as_str()).collect()
}

#[test]
fn the_tail_is_bounded_and_ends_with_the_newest_lines() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        memory_kib_per_function: 1,
        ..Config::default()
    };
    let logs = LogStore::open(folder.path().into(), config, &mut Registry::default());
    let id = function("f");
    for number in 0..100 {
        logs.line(line(&id, &format!("line {number}")));
    }
    let (entries, _) = logs.follow(&LogKey::of(&id), 100, |_| true);
    assert!(entries.len() <= 5);
    assert_eq!(entries.last().unwrap().text, "line 99");
}

#[tokio::test]
async fn a_follower_sees_every_line_once() {
    let folder = tempfile::tempdir().unwrap();
    let logs = LogStore::open(
        folder.path().into(),
        Config::default(),
        &mut Registry::default(),
    );
    let id = function("f");
    logs.line(line(&id, "before"));
    let (entries, mut live) = logs.follow(&LogKey::of(&id), 10, |_| true);
    logs.line(line(&id, "after"));
    assert_eq!(texts(&entries), ["before"]);
    assert_eq!(live.recv().await.unwrap().text, "after");
}

#[test]
fn another_run_finds_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let id = function("..");
    {
        let entry = Arc::new(LogEntry {
            time: String::new(),
            version: "latest".into(),
            instance: String::new(),
            request: None,
            stream: "stdout".into(),
            text: "kept".into(),
        });
        let sender = file::start(1 << 20, 4);
        let path = LogKey::of(&id).path(folder.path());
        sender
            .send(file::Line {
                path: path.clone(),
                entry,
            })
            .unwrap();
        drop(sender);
        while file::tail(&path, 1000).is_empty() {
            std::thread::yield_now();
        }
    }
    let logs = LogStore::open(
        folder.path().into(),
        Config::default(),
        &mut Registry::default(),
    );
    let (entries, _) = logs.follow(&LogKey::of(&id), 10, |_| true);
    assert_eq!(texts(&entries), ["kept"]);
}
