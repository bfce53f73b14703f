//! `bugle pool`.

use serde_json::{Value, json};

use crate::console::Console;

#[tokio::test]
async fn a_pool_is_made_from_flags_changed_shown_and_deleted() {
    let (console, platform) = Console::with_platform().await;
    let create = [
        "pool", "create", "small", "--size", "2", "--cpu", "200m", "--memory", "64Mi", "--label",
        "a=b", "--wait",
    ];
    let said = console.run(create).await.expect(0);
    assert_eq!(said.out.trim(), "small: 2 of 2 workers are ready");
    let said = console.run(["pool", "list"]).await.expect(0);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines[0].split_whitespace().next(), Some("POOL"));
    let cells: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(
        cells,
        ["small", "default", "2/2", "2", "Running", "Running"]
    );
    console
        .run(["pool", "resize", "small", "--size", "1"])
        .await
        .expect(0);
    console.run(["pool", "wait", "small"]).await.expect(0);
    let shown = console
        .run(["pool", "describe", "small", "-o", "json"])
        .await
        .expect(0);
    let shown: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(
        (&shown["size"], &shown["labels"]),
        (&json!(1), &json!({"a": "b"}))
    );
    let said = console
        .run(["pool", "resize", "small", "--max-size", "7"])
        .await
        .expect(0);
    said.complains("--max-size is ignored: small was not made to grow");
    console.run(["pool", "wait", "small"]).await.expect(0);
    let shown = console.run(["pool", "describe", "small"]).await.expect(0);
    assert!(
        shown.out.contains("limits        cpu=200m memory=64Mi"),
        "{}",
        shown.out
    );
    // To the platform an empty name is any: as when a script's variable is empty.
    for nobody in [
        "describe ''",
        "wait ''",
        "resize '' --size 1",
        "delete '' --group default",
    ] {
        let said = console
            .shell(&format!("bugle pool {nobody}"))
            .await
            .expect(2);
        said.complains("a name is not empty");
    }
    console.run(["pool", "wait", "small"]).await.expect(0);
    console.run(["pool", "delete", "small"]).await.expect(0);
    console
        .run(["pool", "wait", "small", "--deleted"])
        .await
        .expect(0);
    console.run(["pool", "wait", "small"]).await.expect(5);
    console.run(["pool", "describe", "small"]).await.expect(5);
    console.run(["pool", "delete", "small"]).await.expect(5);
    platform.finish().await;
}

#[tokio::test]
async fn pools_are_made_from_a_file_and_mistakes_are_named() {
    let (console, platform) = Console::with_platform().await;
    let file = |text: &str| std::fs::write(console.folder().join("pools.yaml"), text).unwrap();
    let resources = "resources: {requests: {cpu: 100m}, limits: {cpu: 100m}}";
    file(&format!(
        "pools:\n- {{id: a, size: 0, {resources}, tolerations: [{{operator: Exists}}]}}\n\
         - {{id: b, size: 0, {resources}}}\n"
    ));
    let said = console
        .run(["pool", "create", "-f", "pools.yaml"])
        .await
        .expect(0);
    assert_eq!(said.out.trim(), "created a, b");
    let said = console
        .run(["pool", "create", "-f", "pools.yaml"])
        .await
        .expect(1);
    said.complains("id: a,err: pool id already exists or is deleting");
    file(&format!(
        "pools:\n- {{id: b, {resources}}}\n- {{id: c, size: 0, {resources}}}\n"
    ));
    let said = console
        .run(["pool", "create", "-f", "pools.yaml"])
        .await
        .expect(1);
    said.complains("created c")
        .complains("id: b,err: pool id already exists or is deleting");
    file("id: d\nsizes: 2\n");
    let said = console
        .run(["pool", "create", "-f", "pools.yaml"])
        .await
        .expect(1);
    said.complains("there is no field sizes; did you mean size?");
    for (text, complaint) in [
        ("", "there is no pool in it"),
        ("pools: []\n", "there is no pool in it"),
        (
            "id: d\nresources: {request: {cpu: 1}}\n",
            "pool d: there is no field resources.request; did you mean requests?",
        ),
        (
            "id: d\nenvironment: {A: 5}\n",
            "pool d: field environment.A: ",
        ),
    ] {
        file(text);
        let said = console.run(["pool", "create", "-f", "pools.yaml"]).await;
        said.expect(1).complains(complaint);
    }
    file("maxReplicas: 3\n");
    let resize = ["pool", "resize", "b", "--autoscaler", "pools.yaml"];
    console.run(["pool", "wait", "b"]).await.expect(0);
    console.run(resize).await.expect(0);
    let shown = console.run(["pool", "describe", "b"]).await.expect(0);
    assert!(shown.out.contains("{\"maxReplicas\":3}"), "{}", shown.out);
    console.run(["pool", "create"]).await.expect(2);
    console
        .run(["pool", "create", "d", "-f", "pools.yaml"])
        .await
        .expect(2);
    let schema = console.run(["pool", "schema"]).await.expect(0);
    let schema: Value = serde_json::from_str(&schema.out).unwrap();
    assert_eq!(
        schema["$defs"]["PoolRequest"]["additionalProperties"],
        false
    );
    platform.finish().await;
}
