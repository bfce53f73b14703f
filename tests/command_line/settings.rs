//! Configuration: layers, origins, slips; and what the doctor makes of the machine.

use crate::console::Console;

#[tokio::test]
async fn each_value_is_shown_with_its_origin() {
    let console = Console::new();
    let file = "[scheduler]\nidle_seconds = 1\nqueue_limit = 2\nretry_seconds = 3\n";
    std::fs::write(console.folder().join("bugle.toml"), file).unwrap();
    let variables = [
        ("BUGLE_SCHEDULER__QUEUE_LIMIT", "20"),
        ("BUGLE_SCHEDULER__RETRY_SECONDS", "30"),
    ];
    let dump = ["config", "dump", "--set", "scheduler.retry_seconds=300"];
    let said = console.run_with(&variables, dump).await.expect(0);
    for line in [
        "idle_seconds = 1  # file",
        "queue_limit = 20  # environment",
        "retry_seconds = 300  # flag",
        "stop_seconds = 30  # default",
    ] {
        assert!(said.out.lines().any(|shown| shown == line), "{}", said.out);
    }
    let home = console.site.home();
    let data = format!(
        "data_dir = \"{}/.local/share/bugle\"  # default",
        home.display()
    );
    assert!(said.out.contains(&data), "no {data} in {}", said.out);

    let said = console
        .run(["config", "dump", "-o", "json", "--data-dir", "d"])
        .await;
    let shown = said.expect(0).json();
    assert_eq!(shown["scheduler"]["idle_seconds"]["value"], 1);
    assert_eq!(shown["scheduler"]["idle_seconds"]["origin"], "file");
    assert_eq!(shown["server"]["data_dir"]["value"], "d");
    assert_eq!(shown["server"]["data_dir"]["origin"], "flag");
    let said = console.run(["config", "check"]).await.expect(0);
    assert_eq!(said.out, "the configuration is in order\n");
}

#[tokio::test]
async fn what_is_dumped_can_be_read_again() {
    let console = Console::new();
    let line = "bugle config dump --set scheduler.idle_seconds=7 >all.toml && \
                bugle config check --config all.toml && bugle config dump --config all.toml";
    let said = console.shell(line).await.expect(0);
    assert!(
        said.out.contains("idle_seconds = 7  # file"),
        "{}",
        said.out
    );
}

#[tokio::test]
async fn a_slip_in_a_key_is_answered_with_its_place_and_the_nearest_key() {
    let console = Console::new();
    let write = |text: &str| std::fs::write(console.folder().join("my.toml"), text).unwrap();
    write("[scheduler]\nidle_secnds = 5\n");
    let said = console.run(["serve", "--config", "my.toml"]).await;
    let said = said.expect(64);
    let said = said.complains("configuration file my.toml sets scheduler.idle_secnds");
    assert!(said.err.contains("did you mean scheduler.idle_seconds?"));
    write("[schduler]\nidle_seconds = 5\n");
    let said = console
        .run(["config", "check", "--config", "my.toml"])
        .await;
    said.expect(64).complains("did you mean scheduler?");
    write("[gateway]\nqueue_limit = 5\n");
    let said = console.run(["dev", "--config", "my.toml"]).await;
    said.expect(1).complains("function.toml");
    let said = console
        .run(["doctor", "--config", "my.toml"])
        .await
        .expect(64);
    said.complains("did you mean scheduler.queue_limit?");
    write("[scheduler\n");
    let said = console.run(["config", "dump", "--config", "my.toml"]).await;
    said.expect(64).complains("my.toml is not TOML");
    let said = console
        .run(["config", "dump", "--config", "none.toml"])
        .await;
    said.expect(64).complains("none.toml");

    let variables = [("BUGLE_LOGS__MEMORY_MIIB", "5")];
    let said = console.run_with(&variables, ["config", "check"]).await;
    let said = said.expect(64).complains("BUGLE_LOGS__MEMORY_MIIB");
    assert!(said.err.contains("did you mean logs.memory_mib?"));
    let said = console
        .run(["config", "check", "--set", "logs.memory_mib=much"])
        .await;
    said.expect(64).complains("logs.memory_mib");
}

#[tokio::test]
async fn the_doctor_says_what_is_wrong_and_what_to_do() {
    let console = Console::new();
    let said = console.run(["doctor"]).await.expect(0);
    for text in ["ok       data directory: ", "ok       python3."] {
        assert!(said.out.contains(text), "no {text:?} in {}", said.out);
    }
    std::fs::write(console.folder().join("file"), "").unwrap();
    let said = console.run(["doctor", "--data-dir", "/proc/bugle"]).await;
    let said = said.expect(1);
    assert!(
        said.out.contains("failed   data directory: "),
        "{}",
        said.out
    );
    assert!(said.out.contains("→ choose another folder with --data-dir"));
    assert!(said.err.contains("the platform would not run"));
    let said = console
        .run(["doctor", "--data-dir", "/proc/bugle", "-o", "json"])
        .await;
    let findings = said.expect(1).json();
    let failed = findings.as_array().unwrap().iter();
    let failed: Vec<_> = failed.filter(|found| found["state"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{findings}");
    assert!(failed[0]["fix"].is_string());
}
