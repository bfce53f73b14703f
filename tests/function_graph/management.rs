//! Functions are made, changed, published, listed and deleted.

use bugle_testkit::Site;
use serde_json::json;

use crate::{FUNCTIONS, thumb};

#[tokio::test]
async fn an_image_function_is_made_shown_and_deleted() {
    let site = Site::new();
    let platform = site.start().await;
    let made = platform
        .control
        .post(FUNCTIONS, &thumb())
        .await
        .expect(200)
        .json();
    assert_eq!(
        made["func_urn"],
        "urn:fss:local:default:function:default:thumb_1:latest"
    );
    assert_eq!(made["encrypted_user_data"], r#"{"password":""}"#);
    assert_eq!(made["cpu"], 600);
    let taken = platform
        .control
        .post(FUNCTIONS, &thumb())
        .await
        .expect(409)
        .json();
    assert_eq!(taken["error_code"], "FSS.1061");

    for name in [
        "thumb_1",
        "default:thumb_1",
        "default:default:thumb_1:latest",
        "urn:fss:local:default:function:default:thumb_1",
    ] {
        let path = format!("{FUNCTIONS}/{name}/config");
        let shown = platform.control.get(&path).await.expect(200).json();
        assert_eq!(shown, made, "{name}");
    }
    let other = format!("{FUNCTIONS}/other:default:thumb_1/config");
    let other = platform.control.get(&other).await.expect(403).json();
    assert_eq!(other["error_code"], "FSS.0403");

    let known = platform
        .control
        .get("/serverless/v1/functions/0@default@thumb_1")
        .await;
    let known = known.expect(200).json();
    assert_eq!(known["function"]["runtime"], "custom image");

    let path = format!("{FUNCTIONS}/thumb_1");
    let _ = platform.control.delete(&path).await.expect(204);
    let gone = platform.control.delete(&path).await.expect(404).json();
    assert_eq!(gone["error_code"], "FSS.1051");
    platform.finish().await;
}

#[tokio::test]
async fn changes_concern_what_they_speak_of_and_versions_stay() {
    let site = Site::new();
    let platform = site.start().await;
    let _ = platform.control.post(FUNCTIONS, &thumb()).await.expect(200);
    let at = |what: &str| format!("{FUNCTIONS}/thumb_1/{what}");
    let version = json!({"version": "v1", "description": "first"});
    let version = platform
        .control
        .post(&at("versions"), &version)
        .await
        .expect(200)
        .json();
    assert_eq!(version["version"], "v1");

    let changed = json!({"memory_size": 256, "user_data": "{\"B\":\"2\"}",
        "strategy_config": {"concurrency": -1, "concurrent_num": 10}});
    let changed = platform
        .control
        .put(&at("config"), &changed)
        .await
        .expect(200)
        .json();
    assert_eq!(changed["memory_size"], 256);
    assert_eq!(changed["user_data"], r#"{"B":"2"}"#);
    assert_eq!(changed["encrypted_user_data"], r#"{"password":""}"#);
    assert_eq!(
        changed["strategy_config"],
        json!({"concurrency": 1000, "concurrent_num": 10})
    );
    assert_eq!(changed["timeout"], 30);
    assert_eq!(changed["initializer_timeout"], 30);

    let image = json!({"code_type": "Custom-Image-Swr",
        "custom_image": {"image": "registry.invalid/team/thumb:2"}});
    let deployed = platform
        .control
        .put(&at("code"), &image)
        .await
        .expect(200)
        .json();
    assert_eq!(deployed["image_name"], "registry.invalid/team/thumb:2");
    assert!(deployed["custom_image"].get("command").is_none());
    assert_eq!(deployed["memory_size"], 256);

    let old = format!("{FUNCTIONS}/default:default:thumb_1:v1/config");
    let old = platform.control.get(&old).await.expect(200).json();
    assert_eq!(old["image_name"], "registry.invalid/team/thumb:1.4.2");
    assert_eq!(old["memory_size"], 512);
    let versions = platform
        .control
        .get(&at("versions"))
        .await
        .expect(200)
        .json();
    assert_eq!(versions["count"], 2);
    platform.finish().await;
}

#[tokio::test]
async fn a_list_goes_page_by_page_through_image_functions_alone() {
    let site = Site::new();
    let code = site.write_code("f", "index.py", "def handler(event, context): return 1");
    let platform = site.start().await;
    for number in 0..5 {
        let mut image = thumb();
        image["func_name"] = json!(format!("image{number}"));
        let _ = platform.control.post(FUNCTIONS, &image).await.expect(200);
        let python = format!("0@default@python{number}");
        let _ = platform
            .register(&bugle_testkit::FunctionSpec::python(&python, &code))
            .await;
    }
    let mut names = std::collections::BTreeSet::new();
    let mut marker = 0;
    for expected in [2, 2, 1] {
        let path = format!("{FUNCTIONS}?maxitems=2&marker={marker}");
        let page = platform.control.get(&path).await.expect(200).json();
        let functions = page["functions"].as_array().unwrap();
        assert_eq!(functions.len(), expected);
        names.extend(
            functions
                .iter()
                .map(|f| f["func_name"].as_str().unwrap().to_owned()),
        );
        marker = page["next_marker"].as_u64().unwrap();
    }
    assert_eq!(names.len(), 5, "{names:?}");
    let wrong = platform
        .control
        .get(&format!("{FUNCTIONS}?marker=x"))
        .await
        .expect(400);
    assert_eq!(wrong.json()["error_code"], "FSS.0400");
    platform.finish().await;
}

#[tokio::test]
async fn reserved_instances_are_the_instances_that_are_kept() {
    let site = Site::new();
    let mut platform = site.start().await;
    platform.tolerate("instance");
    platform.tolerate("start");
    let _ = platform.control.post(FUNCTIONS, &thumb()).await.expect(200);
    let path = format!("{FUNCTIONS}/thumb_1/reservedinstances");
    let wanted = json!({"count": 2, "idle_mode": false});
    let echoed = platform
        .control
        .put(&path, &wanted)
        .await
        .expect(200)
        .json();
    assert_eq!(echoed, wanted);
    let known = platform
        .control
        .get("/serverless/v1/functions/0@default@thumb_1")
        .await;
    assert_eq!(known.expect(200).json()["function"]["minInstance"], 2);
    for wrong in [
        json!({"count": 1001}),
        json!({}),
        json!({"count": 1, "idle_mode": true}),
    ] {
        let refused = platform.control.put(&path, &wrong).await.expect(400).json();
        assert_eq!(refused["error_code"], "FSS.0400");
    }
    let _ = platform
        .control
        .put(&path, &json!({"count": 0}))
        .await
        .expect(200);
    platform.finish().await;
}
