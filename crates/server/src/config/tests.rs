use super::*;

fn flags(text: &str) -> Layers {
    Layers {
        flags: text.parse().unwrap(),
        ..Layers::default()
    }
}

#[test]
fn without_any_layer_everything_is_a_default() {
    let effective = load(&Layers::default()).unwrap();
    assert_eq!(
        effective.config.server.control_listen.to_string(),
        "127.0.0.1:31182"
    );
    assert!(
        effective
            .origins
            .values()
            .all(|origin| *origin == Origin::Default)
    );
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bugle.toml");
    std::fs::write(
        &file,
        "[server]\nshutdown_grace_seconds = 1\ndata_threads = 1\ndata_dir = 'f'\n",
    )
    .unwrap();
    let environment = vec![
        ("BUGLE_SERVER__DATA_THREADS".to_owned(), "2".to_owned()),
        ("BUGLE_SERVER__DATA_DIR".to_owned(), "e".to_owned()),
        ("BUGLE_SERVER".to_owned(), "http://not-a-key".to_owned()),
        ("PATH".to_owned(), "x".to_owned()),
    ];
    let layers = Layers {
        file: Some(file),
        environment,
        ..flags("[server]\ndata_dir = 'flag'")
    };
    let effective = load(&layers).unwrap();
    let server = &effective.config.server;
    assert_eq!(
        (
            server.shutdown_grace_seconds,
            server.data_threads,
            server.data_dir.to_str().unwrap()
        ),
        (1, 2, "flag")
    );
    assert_eq!(
        effective.origins["server.shutdown_grace_seconds"],
        Origin::File
    );
    assert_eq!(
        effective.origins["server.data_threads"],
        Origin::Environment
    );
    assert_eq!(effective.origins["server.data_dir"], Origin::Flag);
    assert!(effective.dump().contains("data_threads = 2  # environment"));
}

#[test]
fn mounts_have_names_of_the_operators_own() {
    let effective = load(&flags("[containers.mounts.models]\npath = '/srv/models'")).unwrap();
    let mounts = &effective.config.containers.mounts;
    assert_eq!(mounts["models"].path, Path::new("/srv/models"));
    assert!(!mounts["models"].writable);
    assert_eq!(effective.origins["containers.mounts"], Origin::Flag);
    let wrong = load(&flags("[containers.mounts.models]\npaht = '/srv'")).unwrap_err();
    assert!(wrong.to_string().contains("containers.mounts"), "{wrong}");
}

#[test]
fn an_unknown_key_is_named() {
    let error = load(&flags("[server]\nportt = 1")).unwrap_err();
    assert!(error.to_string().contains("server.portt"), "{error}");
    let environment = vec![("BUGLE_SERVER__PORTT".to_owned(), "1".to_owned())];
    let error = load(&Layers {
        environment,
        ..Layers::default()
    })
    .unwrap_err();
    assert!(error.to_string().contains("server.portt"), "{error}");
}

#[test]
fn a_wrong_value_is_named_with_its_layer() {
    let error = load(&flags("[server]\ncontrol_listen = 'nowhere'")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("a flag sets server.control_listen"),
        "{error}"
    );
}

#[test]
fn other_addresses_than_loopback_need_insistence() {
    let open = "[server]\ngateway_listen = '0.0.0.0:1'\n";
    assert!(matches!(load(&flags(open)), Err(Error::NotLoopback { .. })));
    let insist = format!("{open}insecure_listen_without_authentication = true");
    assert!(load(&flags(&insist)).is_ok());
}

#[test]
fn programs_need_a_range_of_ports() {
    for wrong in ["first_port = 0", "first_port = 3\nlast_port = 2"] {
        let error = load(&flags(&format!("[programs]\n{wrong}"))).unwrap_err();
        assert!(matches!(error, Error::NoPorts { .. }), "{error}");
    }
    assert!(load(&flags("[programs]\nfirst_port = 9\nlast_port = 9")).is_ok());
}

#[test]
fn pods_of_pools_need_a_port_that_they_can_be_told() {
    let wrong = |text: &str| match load(&flags(text)) {
        Err(Error::WrongValue { key, message, .. }) => (key, message),
        other => panic!("{other:?}"),
    };
    let pods = "[pools]\nbackend = 'kubernetes'\n";
    let (key, message) = wrong(pods);
    assert_eq!(key, "nodes.listen");
    assert!(message.contains("0.0.0.0:31183"), "{message}");
    let everywhere = format!("{pods}[nodes]\nlisten = '0.0.0.0:31183'\n");
    assert_eq!(wrong(&everywhere).0, "kubernetes.join_address");
    let told = format!("{everywhere}[kubernetes]\njoin_address = 'bugle:31183'\n");
    assert!(load(&flags(&told)).is_ok());
    assert!(
        load(&flags(&format!(
            "{pods}[nodes]\nlisten = '10.0.0.1:31183'\n"
        )))
        .is_ok()
    );
    let several = "[store]\nkind = 'etcd'\n[cluster]\nlisten = '10.0.0.1:31184'\n";
    let own = format!("{pods}{several}[nodes]\nlisten = '10.0.0.1:31183'\n");
    let (key, message) = wrong(&own);
    assert_eq!(key, "kubernetes.join_address");
    assert!(message.contains("several gateways"), "{message}");
    let one = format!("{own}[kubernetes]\njoin_address = 'bugle:31183'\n");
    assert!(load(&flags(&one)).is_ok());
}
