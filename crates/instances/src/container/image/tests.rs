use bugle_types::{
    CodeLocation, ContainerNetwork, CpuMillis, FunctionId, FunctionSpec, FunctionUrn, Generation,
    ImageRuntime, Initialization, Kind, MemoryMib, Mount, Runtime, Scale, SealedEnvironment,
};

use super::super::config::HostDirectory;
use super::*;
use crate::InstanceId;

fn spec() -> ContainerSpec {
    ContainerSpec {
        image: "i".to_owned(),
        digest: None,
        command: Vec::new(),
        args: Vec::new(),
        working_dir: None,
        uid: 1003,
        gid: 1003,
        initialization: Initialization::Auto,
        network: ContainerNetwork::None,
        health: None,
        shutdown: None,
        disk_mib: 512,
        mounts: Vec::new(),
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: texts(&["/entry", "e"]),
        cmd: texts(&["c1", "c2"]),
        working_dir: Some("/srv".to_owned()),
        ..ImageConfig::default()
    }
}

#[test]
fn command_and_arguments_take_the_place_of_entrypoint_and_cmd() {
    for (command, args, expected) in [
        (&[][..], &[][..], &["/entry", "e", "c1", "c2"][..]),
        (&["/mine"], &[], &["/mine"]),
        (&[], &["a"], &["/entry", "e", "a"]),
        (&["/mine"], &["a", ""], &["/mine", "a", ""]),
    ] {
        let mut spec = spec();
        spec.command = texts(command);
        spec.args = texts(args);
        assert_eq!(argv(&image(), &spec).unwrap(), texts(expected));
    }
    let nothing = argv(&ImageConfig::default(), &spec()).unwrap_err();
    assert!(nothing.contains("neither an entrypoint nor a command"));
}

#[test]
fn the_directory_is_the_functions_then_the_images_then_the_root() {
    let mut own = spec();
    own.working_dir = Some("/own".to_owned());
    assert_eq!(directory(&image(), &own), "/own");
    assert_eq!(directory(&image(), &spec()), "/srv");
    assert_eq!(directory(&ImageConfig::default(), &spec()), "/");
}

fn request() -> StartRequest {
    let urn: FunctionUrn = "sn:cn:yrk:tenant-1:function:0@svc@thumb".parse().unwrap();
    let resources = Resources {
        cpu: CpuMillis(300),
        memory: MemoryMib(128),
        custom: Vec::new(),
    };
    let spec = FunctionSpec {
        id: FunctionId::from_urn(urn),
        kind: Kind::Faas,
        generation: Generation("1".into()),
        runtime: Runtime::Image(ImageRuntime::Event),
        handler: "-".to_owned(),
        initializer: None,
        pre_stop: None,
        timeout: std::time::Duration::from_secs(3),
        resources: resources.clone(),
        concurrency: std::num::NonZeroU32::MIN,
        scale: Scale { min: 0, max: 1 },
        labels: Vec::new(),
        idle: None,
        pool: bugle_types::pool::PoolChoice::default(),
        code: CodeLocation::Image(Box::new(spec())),
        environment: SealedEnvironment(String::new()),
    };
    StartRequest {
        id: InstanceId(7),
        spec: Arc::new(spec),
        resources,
        label: None,
    }
}

#[test]
fn what_the_platform_says_is_not_overridden_and_what_cannot_be_set_is_refused() {
    let of = |pairs: &[(&str, &str)]| {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let user: BTreeMap<_, _> = pairs.iter().map(owned).collect();
        environment(&image(), &request(), &user, &[])
    };
    let seen = of(&[("RUNTIME_MEMORY", "9"), ("KEY", "value")]).unwrap();
    let find = |name: &str| {
        seen.iter()
            .find(|(one, _)| one == name)
            .map(|(_, value)| &**value)
    };
    assert_eq!(find("RUNTIME_MEMORY"), Some("128"));
    assert_eq!(find("KEY"), Some("value"));
    assert_eq!(find("PATH"), Some(search::DEFAULT_PATH));
    assert!(of(&[("A=B", "")]).is_err() && of(&[("A", "\0")]).is_err());
}

#[test]
fn the_home_is_that_of_the_highest_list_of_users_and_no_link_is_followed() {
    let layer = |text: Option<&str>| {
        let layer = tempfile::tempdir().unwrap();
        std::fs::create_dir(layer.path().join("etc")).unwrap();
        if let Some(text) = text {
            std::fs::write(layer.path().join("etc/passwd"), text).unwrap();
        }
        layer
    };
    let low = layer(Some("a:x:1003:1003::/low:/bin/sh\n"));
    let high = layer(Some(
        "root:x:0:0::/root:\nb:x:1003:1003:x:/high:\nc:x:1004:1:x::\n",
    ));
    let other = layer(None);
    let paths = |layers: &[&tempfile::TempDir]| -> Vec<PathBuf> {
        layers.iter().map(|layer| layer.path().to_owned()).collect()
    };
    assert_eq!(home(&paths(&[&low, &high, &other]), 1003), "/high");
    assert_eq!(home(&paths(&[&low, &other]), 1003), "/low");
    assert_eq!(home(&paths(&[&high]), 1004), "/");
    let leading_out = layer(None);
    let secret = low.path().join("etc/passwd");
    std::os::unix::fs::symlink(secret, leading_out.path().join("etc/passwd")).unwrap();
    assert_eq!(home(&paths(&[&leading_out]), 1003), "/");
}

#[test]
fn only_directories_that_the_operator_lists_are_mounted() {
    let mut config = ContainerConfig::default();
    let listed = HostDirectory {
        path: "/srv/models".into(),
        writable: false,
    };
    config.mounts.insert("models".to_owned(), listed);
    let mut spec = spec();
    let mount = |name: &str| Mount {
        name: name.to_owned(),
        target: "/mnt/data".to_owned(),
    };
    spec.mounts = vec![mount("models")];
    let expected = Bind {
        source: "/srv/models".into(),
        target: "/mnt/data".to_owned(),
        read_only: true,
    };
    assert_eq!(binds(&spec, &config).unwrap(), [expected]);
    spec.mounts = vec![mount("/etc")];
    let refused = binds(&spec, &config).unwrap_err();
    assert!(refused.starts_with("failed to mount /etc"), "{refused}");
}

#[test]
fn the_signal_that_stops_is_spelled_in_three_ways() {
    let of = |signal: Option<&str>| {
        let image = ImageConfig {
            stop_signal: signal.map(str::to_owned),
            ..image()
        };
        stop_signal(&image)
    };
    assert_eq!(of(None), Ok(Signal::TERM));
    for spelled in ["SIGQUIT", "quit", "3"] {
        assert_eq!(of(Some(spelled)), Ok(Signal::QUIT), "{spelled}");
    }
    for unknown in ["SIGRTMIN+3", "0", "-1", "", "SIGSIG"] {
        let why = of(Some(unknown)).unwrap_err();
        assert!(why.contains("SIGTERM is sent instead"), "{why}");
    }
}
