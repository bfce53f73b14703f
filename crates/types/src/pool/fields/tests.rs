//! What the fields take, leave out and refuse.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn refusals<T>(Parsed { refused, .. }: Parsed<T>) -> String {
    assert!(!refused.is_empty(), "nothing is refused");
    refused.join("; ")
}

#[test]
fn what_cannot_be_read_is_left_out_and_said() {
    let parsed = volumes("{nope");
    assert_eq!((parsed.value.len(), parsed.refused.len()), (0, 0));
    assert!(parsed.ignored[0].starts_with("volumes: it is not JSON"));
    assert_eq!(
        tolerations("{}").ignored,
        ["tolerations: it is not a JSON list"]
    );
    assert_eq!(
        affinities("[]").ignored,
        ["affinities: it is not a JSON object"]
    );
    let parsed = volumes(
        r#"[{"name":1,"emptyDir":{}}, {"emptyDir":{}}, {"name":"x","nfs":{}}, {"name":"ok","emptyDir":{}}]"#,
    );
    assert_eq!(parsed.value, [json!({"name":"ok","emptyDir":{}})]);
    assert_eq!((parsed.ignored.len(), parsed.refused.len()), (3, 0));
    let parsed = topology_spread(r#"[{"maxSkew":1,"whenUnsatisfiable":"DoNotSchedule"}]"#);
    assert_eq!((parsed.value.len(), parsed.ignored.len()), (0, 1));
}

#[test]
fn a_field_that_there_is_none_of_is_told() {
    let parsed = tolerations(r#"[{"key":"a","operatr":"Exists"}]"#);
    assert_eq!(
        parsed.ignored,
        ["tolerations[0].operatr: there is no such field"]
    );
    assert_eq!(parsed.value, [json!({"key": "a"})]);
    assert_eq!(
        affinities(r#"{"nodeAffinty":{"x":1}}"#).ignored,
        ["affinities.nodeAffinty: there is no such field"]
    );
    let found = volumes(r#"[{"name":"a","emptyDir":{"sizeLimt":"1Gi"}}]"#);
    assert_eq!(
        found.ignored,
        ["volumes[0].emptyDir.sizeLimt: there is no such field"]
    );
    let mounts = r#"[{"name":"a","mountPath":"/a","readonly":true,"subPath":""}]"#;
    assert_eq!(
        volume_mounts(mounts, &found).ignored,
        ["volume_mounts[0].readonly: there is no such field"]
    );
    let refused = refusals(autoscaler(r#"{"maxReplicas":3,"minReplcas":2}"#));
    assert!(
        refused.contains("minReplcas: there is no such field"),
        "{refused}"
    );
    let spread = r#"[{"topologyKey":"z","maxSkew":1,"whenUnsatisfiable":"DoNotSchedule",
        "labelSelector":{"matchLabels":{"any":"key"},"matchLabls":{"a":"b"}}}]"#;
    assert_eq!(
        topology_spread(spread).ignored,
        ["topology_spread_constraints[0].labelSelector.matchLabls: there is no such field"]
    );
    let mut many: serde_json::Map<_, _> = (0..100).map(|n| (format!("k{n}"), json!(1))).collect();
    many.insert("operator".to_owned(), json!("Exists"));
    let parsed = tolerations(&json!([many]).to_string());
    assert_eq!(parsed.ignored.len(), MOST_TOLD + 1);
    assert!(parsed.ignored[MOST_TOLD].starts_with("80 other fields"));
}

#[test]
fn an_autoscaler_that_cannot_be_read_is_refused() {
    for text in [
        "{nope",
        "[]",
        "null",
        "{}",
        r#"{"maxReplicas":"3"}"#,
        r#"{"maxReplicas":2,"minReplicas":3}"#,
        r#"{"maxReplicas":2,"minReplicas":0}"#,
        r#"{"maxReplicas":0}"#,
        r#"{"maxReplicas":3,"metrics":[{"type":"Resource"}]}"#,
        r#"{"maxReplicas":3,"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Value","value":"1"}}}]}"#,
        r#"{"maxReplicas":3,"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":50,"averageValue":"1"}}}]}"#,
        r#"{"maxReplicas":3,"behavior":{"scaleDown":{"stabilizationWindowSeconds":3601}}}"#,
        r#"{"maxReplicas":3,"behavior":{"scaleUp":{"policies":[{"type":"Pods","value":0,"periodSeconds":60}]}}}"#,
    ] {
        assert!(!autoscaler(text).refused.is_empty(), "{text}");
    }
    let good = json!({
        "scaleTargetRef": {"kind": "Deployment", "name": "of-another"},
        "minReplicas": 1, "maxReplicas": 3,
        "metrics": [
            {"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 50}}},
            {"type": "Pods", "pods": {"metric": {"name": "calls"},
                "target": {"type": "AverageValue", "averageValue": "100"}}},
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60, "selectPolicy": "Min",
            "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}},
    });
    let parsed = autoscaler(&good.to_string());
    assert!(parsed.refused.is_empty(), "{:?}", parsed.refused);
    let kept = parsed.value.unwrap();
    assert_eq!(kept.get("scaleTargetRef"), None, "the pool is the target");
    assert_eq!(kept["metrics"], good["metrics"]);
    assert_eq!(kept["behavior"], good["behavior"]);
}

#[test]
fn volumes_keep_the_rules_of_kubernetes() {
    for (text, reason) in [
        (r#"[{"name":"A","emptyDir":{}}]"#, "name"),
        (
            r#"[{"name":"a","emptyDir":{}},{"name":"a","emptyDir":{}}]"#,
            "twice",
        ),
        (
            r#"[{"name":"a","emptyDir":{},"hostPath":{"path":"/x"}}]"#,
            "one kind",
        ),
        (r#"[{"name":"a","hostPath":{"path":"/x/../y"}}]"#, "path"),
        (
            r#"[{"name":"a","hostPath":{"path":"/x","type":"Any"}}]"#,
            "type",
        ),
        (
            r#"[{"name":"a","configMap":{"name":"m","defaultMode":512}}]"#,
            "mode",
        ),
        (
            r#"[{"name":"a","secret":{"secretName":"s","items":[{"key":"k","path":"/k"}]}}]"#,
            "path",
        ),
        (
            r#"[{"name":"a","persistentVolumeClaim":{"claimName":""}}]"#,
            "claim",
        ),
        (
            r#"[{"name":"a","projected":{"sources":[{"serviceAccountToken":{"path":"token"}}]}}]"#,
            "token",
        ),
        (
            r#"[{"name":"a","projected":{"sources":[{"configMap":{"name":"m"},"secret":{"name":"s"}}]}}]"#,
            "one of",
        ),
    ] {
        let refused = refusals(volumes(text));
        assert!(refused.contains(reason), "{text}: {refused}");
    }
    let unknown = volumes(r#"[{"name":"a","emptyDir":{"sizeLimit":"1Gi","x":1},"x":2}]"#);
    assert_eq!(unknown.ignored.len(), 2);
    assert_eq!(
        unknown.value,
        [json!({"name":"a","emptyDir":{"sizeLimit":"1Gi"}})],
        "nothing passes that was not looked at"
    );
}

#[test]
fn a_mount_needs_its_volume() {
    let volumes = volumes(r#"[{"name":"a","emptyDir":{}}]"#);
    let mounts = |text: &str| volume_mounts(text, &volumes);
    let good = mounts(r#"[{"name":"a","mountPath":"/a","readOnly":true}]"#);
    assert_eq!((good.value.len(), good.refused.len()), (1, 0));
    for (text, reason) in [
        (r#"[{"name":"b","mountPath":"/a"}]"#, "no volume"),
        (r#"[{"name":"a","mountPath":"/a:b"}]"#, "':'"),
        (
            r#"[{"name":"a","mountPath":"/a"},{"name":"a","mountPath":"/a"}]"#,
            "twice",
        ),
        (
            r#"[{"name":"a","mountPath":"/a","subPath":"../x"}]"#,
            "'..'",
        ),
        (
            r#"[{"name":"a","mountPath":"/a","mountPropagation":"Bidirectional"}]"#,
            "privileged",
        ),
    ] {
        let refused = refusals(mounts(text));
        assert!(refused.contains(reason), "{text}: {refused}");
    }
    let unread = super::volumes("{nope");
    let mounts = volume_mounts(r#"[{"name":"a","mountPath":"/a"}]"#, &unread);
    assert_eq!((mounts.ignored.len(), mounts.refused.len()), (1, 0));
}

#[test]
fn tolerations_and_affinities_keep_the_rules_of_kubernetes() {
    for text in [
        r#"[{"operator":"Equal","value":"v"}]"#,
        r#"[{"key":"k","operator":"Exists","value":"v"}]"#,
        r#"[{"key":"k","operator":"Like"}]"#,
        r#"[{"key":"k","effect":"Never"}]"#,
        r#"[{"key":"k","tolerationSeconds":5}]"#,
        r#"[{"key":"-k"}]"#,
    ] {
        refusals(tolerations(text));
    }
    let good = r#"[{"operator":"Exists"},{"key":"k","value":"v","effect":"NoExecute","tolerationSeconds":5}]"#;
    assert_eq!(tolerations(good).value.len(), 2);
    let term = |term: &str| {
        format!(
            r#"{{"podAntiAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":[{term}]}}}}"#
        )
    };
    refusals(affinities(&term(r"{}")));
    refusals(affinities(&term(
        r#"{"topologyKey":"a","labelSelector":{"matchExpressions":[{"key":"k","operator":"In"}]}}"#,
    )));
    assert!(
        affinities(&term(r#"{"topologyKey":"kubernetes.io/hostname"}"#))
            .refused
            .is_empty()
    );
    refusals(affinities(
        r#"{"podAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight":0,"podAffinityTerm":{"topologyKey":"a"}}]}}"#,
    ));
    refusals(affinities(
        r#"{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[]}}}"#,
    ));
}

#[test]
fn spread_constraints_keep_the_rules_of_kubernetes() {
    let one = |fields: &str| topology_spread(&format!("[{{\"topologyKey\":\"z\",{fields}}}]"));
    assert!(
        one(r#""maxSkew":1,"whenUnsatisfiable":"DoNotSchedule","minDomains":2"#)
            .refused
            .is_empty()
    );
    refusals(one(r#""maxSkew":0,"whenUnsatisfiable":"DoNotSchedule""#));
    refusals(one(r#""maxSkew":1,"whenUnsatisfiable":"Never""#));
    refusals(one(
        r#""maxSkew":1,"whenUnsatisfiable":"ScheduleAnyway","minDomains":2"#,
    ));
    let twice = r#"{"topologyKey":"z","maxSkew":1,"whenUnsatisfiable":"DoNotSchedule"}"#;
    refusals(topology_spread(&format!("[{twice},{twice}]")));
}

#[test]
fn lists_are_bounded() {
    let many = vec![json!({"operator": "Exists"}); MOST_ENTRIES + 1];
    refusals(tolerations(&json!(many).to_string()));
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_fault(text in ".{0,200}") {
        let read = volumes(&text);
        volume_mounts(&text, &read);
        tolerations(&text);
        topology_spread(&text);
        affinities(&text);
        prop_assert!(autoscaler(&text).value.is_none() || text.contains("maxReplicas"));
    }
}
