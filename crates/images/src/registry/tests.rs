//! Registries that behave, and such that do not.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::document::Platform;
use crate::testing::{Answer, Asked, Server, configuration, network, network_with, tar};
use crate::{Config, ErrorKind, ImageStore, Needed};

/// The parts of an image, as a registry has them.
#[derive(Clone)]
struct Parts {
    manifest: Vec<u8>,
    blobs: Vec<Vec<u8>>,
}

impl Parts {
    fn new(layers: &[Vec<u8>]) -> Self {
        let config = configuration(layers);
        let of = |bytes: &[u8]| json!({"digest": Digest::of(bytes), "size": bytes.len()});
        let described: Vec<_> = layers.iter().map(|layer| of(layer)).collect();
        let manifest = json!({"config": of(&config), "layers": described});
        let mut blobs = layers.to_vec();
        blobs.push(config);
        Self {
            manifest: manifest.to_string().into_bytes(),
            blobs,
        }
    }

    fn one_layer() -> Self {
        Self::new(&[tar(&[("a", &vec![b'x'; 300_000])])])
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Which blob a request is for.
    fn blob(&self, asked: &Asked) -> Option<&Vec<u8>> {
        let digest: Digest = asked.path.rsplit_once("/blobs/")?.1.parse().ok()?;
        self.blobs.iter().find(|blob| Digest::of(blob) == digest)
    }

    fn answer(&self, asked: &Asked) -> Answer {
        if asked.path.contains("/manifests/") {
            return Answer::new(200, &*self.manifest);
        }
        match self.blob(asked) {
            Some(blob) => Answer::new(200, &**blob),
            None => Answer::new(404, ""),
        }
    }
}

struct Site {
    folder: TempDir,
    store: ImageStore,
    server: Server,
}

impl Site {
    async fn new(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let server = Server::start(answer).await;
        Self::with(server, &[])
    }

    fn with(server: Server, others: &[&Server]) -> Self {
        let mut allowed = vec![server.rule()];
        allowed.extend(others.iter().map(|other| other.rule()));
        Self::allowing(server, &allowed)
    }

    fn allowing(server: Server, allowed: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            silence_seconds: 1,
            ..Config::default()
        };
        let store = ImageStore::open(folder.path(), config, network(folder.path(), allowed));
        Self {
            store: store.unwrap(),
            folder,
            server,
        }
    }

    fn reference(&self) -> String {
        format!("{}/team/app:1", self.server.address)
    }

    async fn pull(&self) -> Result<Digest, ImageError> {
        let image = self.store.pull(&self.reference()).await?;
        assert!(image.layers[0].join("a").try_exists().unwrap());
        Ok(image.digest)
    }

    async fn error(&self) -> ImageError {
        let error = self.pull().await.unwrap_err();
        assert!(self.store.list().is_empty());
        assert!(self.store.pulls().is_empty());
        error
    }

    fn count(&self, part: &str) -> usize {
        let asked = self.server.asked();
        asked.iter().filter(|one| one.path.contains(part)).count()
    }
}

/// What a registry answers in the place of the truth, where it does.
type Lie = Box<dyn Fn(&Parts, &Asked) -> Option<Answer> + Send + Sync>;

fn login() -> Login {
    Login::new("me".to_owned(), "secret".to_owned()).unwrap()
}

#[tokio::test]
async fn an_image_is_pulled_once_for_all_who_want_it() {
    let parts = Parts::one_layer();
    let digest = parts.digest();
    let site = Site::new(move |asked| parts.answer(asked)).await;
    let reference = site.reference();
    let waiting = (0..20).map(|_| site.store.ready(&reference, None));
    for image in futures_util::future::join_all(waiting).await {
        assert_eq!(image.unwrap().digest, digest);
    }
    assert_eq!((site.count("/manifests/"), site.count("/blobs/")), (1, 2));
    site.store.ready(&reference, None).await.unwrap();
    assert_eq!(site.server.asked().len(), 3);
}

#[tokio::test]
async fn a_tag_that_moves_does_not_change_what_was_pinned() {
    let (old, new) = (Parts::one_layer(), Parts::new(&[tar(&[("a", b"new")])]));
    let (first, second) = (old.digest(), new.digest());
    let moved = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&moved);
    let site = Site::new(move |asked| {
        let by_digest = |parts: &Parts| asked.path.ends_with(&parts.digest().to_string());
        let parts = match now.load(Ordering::SeqCst) {
            0 => &old,
            _ if by_digest(&old) || old.blob(asked).is_some() => &old,
            _ => &new,
        };
        parts.answer(asked)
    })
    .await;
    let reference = site.reference();
    assert_eq!(site.store.resolve(&reference).await.unwrap(), first);
    site.pull().await.unwrap();
    moved.store(1, Ordering::SeqCst);
    assert_eq!(site.store.resolve(&reference).await.unwrap(), second);
    // Whoever has the tag does not ask again; whoever asks gets the new one.
    assert_eq!(
        site.store.ready(&reference, None).await.unwrap().digest,
        first
    );
    assert_eq!(site.pull().await.unwrap(), second);
    let pinned = site
        .store
        .ready(&reference, Some(&first.to_string()))
        .await
        .unwrap();
    assert_eq!(pinned.digest, first);
    drop(pinned);
    site.store
        .prune(crate::Prune::Unused, &Needed::default())
        .await
        .unwrap();
    let pinned = site
        .store
        .ready(&reference, Some(&first.to_string()))
        .await
        .unwrap();
    assert_eq!(pinned.digest, first);
}

#[tokio::test]
async fn the_image_for_this_machine_is_taken_from_an_index() {
    let parts = Parts::one_layer();
    let machine = Platform::here();
    let entry = |digest: Digest, architecture: &str| {
        json!({"digest": digest, "size": 1,
            "platform": {"os": "linux", "architecture": architecture}})
    };
    let index = |mine: &str| {
        let entries = [entry(Digest::of(b"x"), "m68k"), entry(parts.digest(), mine)];
        json!({"manifests": entries}).to_string().into_bytes()
    };
    let (good, foreign) = (index(&machine.architecture), index("s390x"));
    let expected = Digest::of(&good);
    let site = Site::new(move |asked| match asked.path.rsplit_once('/').unwrap().1 {
        "1" => Answer::new(200, &*good),
        "2" => Answer::new(200, &*foreign),
        _ => parts.answer(asked),
    })
    .await;
    assert_eq!(site.pull().await.unwrap(), expected);
    let other = format!("{}/team/app:2", site.server.address);
    let error = site.store.pull(&other).await.unwrap_err().to_string();
    assert!(error.contains("linux/m68k, linux/s390x"), "{error}");
    assert!(error.contains(&machine.to_string()), "{error}");
}

#[tokio::test]
async fn a_token_is_got_with_the_login_and_sent_to_the_registry_alone() {
    let parts = Parts::one_layer();
    let storage = {
        let parts = parts.clone();
        Server::start(move |asked| {
            parts.answer(&Asked {
                path: asked.path.replace("/signed/", "/blobs/"),
                ..asked.clone()
            })
        })
        .await
    };
    let elsewhere = storage.address;
    let tokens = Server::start(|asked| {
        let basic = asked.headers.get("authorization").map(String::as_str);
        match basic {
            // me:secret
            Some("Basic bWU6c2VjcmV0") => Answer::new(200, r#"{"token": "t0ken"}"#),
            _ => Answer::new(401, ""),
        }
    })
    .await;
    let realm = tokens.rule();
    let server = Server::start(move |asked| {
        if asked.headers.get("authorization").map(String::as_str) != Some("Bearer t0ken") {
            let challenge = format!("Bearer realm=\"{realm}/token\",service=\"reg\"");
            return Answer::new(401, "").with("www-authenticate", challenge);
        }
        match asked.path.split_once("/blobs/") {
            Some((_, digest)) => {
                Answer::new(307, "").with("location", format!("http://{elsewhere}/signed/{digest}"))
            }
            None if asked.path == "/v2/" => Answer::new(200, "{}"),
            None => parts.answer(asked),
        }
    })
    .await;
    let site = Site::with(server, &[&tokens, &storage]);
    let registry = site.server.address.to_string();
    let error = site.error().await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(
        error.to_string().contains("does not let anyone read"),
        "{error}"
    );
    let wrong = Login::new("me".to_owned(), "wrong".to_owned()).unwrap();
    let error = site
        .store
        .login(&registry, wrong)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("user \"me\"") && !error.contains("wrong"),
        "{error}"
    );
    assert!(site.store.logins().is_empty());

    site.store.login(&registry, login()).await.unwrap();
    site.pull().await.unwrap();
    assert!(tokens.asked().iter().any(|one| {
        one.path.contains("service=reg")
            && one.path.contains("scope=repository%3Ateam%2Fapp%3Apull")
    }));
    assert_eq!(storage.asked().len(), 2);
    for asked in storage.asked() {
        assert!(!asked.headers.contains_key("authorization"), "{asked:?}");
    }
    assert!(site.store.logout(&registry).await.unwrap());
    let text = std::fs::read_to_string(site.folder.path().join("credentials")).unwrap();
    assert!(!text.contains("secret"));
    site.store
        .remove(&site.reference(), &Needed::default())
        .await
        .unwrap();
    assert_eq!(site.error().await.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_and_sent_to_nobody_else() {
    let parts = Parts::one_layer();
    let tokens = Server::start(|asked| match &*asked.body {
        "grant_type=refresh%5Ftoken&client_id=bugle&refresh_token=l%20ong&service=reg\
         &scope=repository%3Ateam%2Fapp%3Apull" => Answer::new(200, r#"{"access_token": "sh0rt"}"#),
        _ => Answer::new(401, ""),
    })
    .await;
    let realm = tokens.rule();
    let server =
        Server::start(
            move |asked| match asked.headers.get("authorization").map(String::as_str) {
                Some("Bearer sh0rt") => parts.answer(asked),
                _ => Answer::new(401, "").with(
                    "www-authenticate",
                    format!("Bearer realm=\"{realm}/token\",service=\"reg\""),
                ),
            },
        )
        .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let registry = server.address.to_string();
    let text = json!({"auths": {registry: {"identitytoken": "l ong"}}});
    std::fs::write(&file, text.to_string()).unwrap();
    let allowed = [server.rule(), tokens.rule()];
    let network = network_with(folder.path(), &allowed, &[file]);
    let images = folder.path().join("images");
    let store = ImageStore::open(&images, Config::default(), network).unwrap();
    let reference = format!("{}/team/app:1", server.address);
    store.pull(&reference).await.unwrap();
    for asked in server.asked() {
        let shown = format!("{asked:?}");
        assert!(!shown.contains("ong"), "{shown}");
    }
    assert!(tokens.asked().iter().all(|asked| asked.method == "POST"));
}

#[tokio::test]
async fn a_login_is_never_given_to_whom_a_redirect_leads() {
    let parts = Parts::one_layer();
    let thief =
        Server::start(|_| Answer::new(401, "").with("www-authenticate", "Basic realm=\"give\""))
            .await;
    let away = thief.rule();
    let server = Server::start(move |asked| {
        if asked.path == "/v2/" && !asked.headers.contains_key("authorization") {
            return Answer::new(401, "").with("www-authenticate", "Basic realm=\"mine\"");
        }
        if asked.path == "/v2/" {
            return Answer::new(200, "");
        }
        if asked.path.contains("/blobs/") {
            return Answer::new(302, "").with("location", format!("{away}/x"));
        }
        parts.answer(asked)
    })
    .await;
    let site = Site::with(server, &[&thief]);
    let registry = site.server.address.to_string();
    site.store.login(&registry, login()).await.unwrap();
    site.error().await;
    assert!(!thief.asked().is_empty());
    for asked in thief.asked() {
        assert!(!asked.headers.contains_key("authorization"), "{asked:?}");
    }
}

#[tokio::test]
async fn a_download_that_breaks_goes_on_where_it_was() {
    let parts = Parts::one_layer();
    for ranges in [true, false] {
        let parts = parts.clone();
        let tries = AtomicUsize::new(0);
        let site = Site::new(move |asked| {
            let mut answer = parts.answer(asked);
            if answer.body.len() < 100_000 {
                return answer;
            }
            let attempt = tries.fetch_add(1, Ordering::SeqCst);
            let from = asked.headers.get("range").map(|range| {
                let range = range.strip_prefix("bytes=").unwrap();
                range.strip_suffix('-').unwrap().parse::<usize>().unwrap()
            });
            if let (Some(from), true) = (from, ranges) {
                let all = answer.body.len();
                let range = format!("bytes {from}-{}/{all}", all - 1);
                answer = Answer::new(206, &answer.body[from..]).with("content-range", range);
            }
            if attempt < 3 {
                answer.cut = Some(50_000 + attempt * 20_000);
            }
            answer
        })
        .await;
        site.pull().await.unwrap();
        assert_eq!(site.count("/blobs/"), 5);
    }
}

#[tokio::test]
async fn a_registry_that_is_busy_is_asked_again_and_one_that_stays_so_is_named() {
    let parts = Parts::one_layer();
    let busy = Arc::new(AtomicUsize::new(2));
    let left = Arc::clone(&busy);
    let site = Site::new(move |asked| {
        let busy = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match busy {
            Ok(_) => Answer::new(503, "").with("retry-after", "0"),
            Err(_) => parts.answer(asked),
        }
    })
    .await;
    site.pull().await.unwrap();
    busy.store(1000, Ordering::SeqCst);
    let error = site.pull().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("status 503"), "{error}");
}

#[tokio::test]
async fn what_a_registry_says_wrongly_is_refused() {
    let good = Parts::one_layer();
    let manifests = |asked: &Asked| asked.path.contains("/manifests/");
    let lies: Vec<(&str, Lie)> = vec![
        (
            "has the digest",
            Box::new(move |parts, asked| {
                let other = Digest::of(b"other").to_string();
                manifests(asked).then(|| parts.answer(asked).with("docker-content-digest", other))
            }),
        ),
        (
            "has the digest",
            Box::new(|parts, asked| {
                let mut blob = parts.blob(asked)?.clone();
                *blob.last_mut().unwrap() ^= 1;
                Some(Answer::new(200, blob))
            }),
        ),
        (
            "has not the",
            Box::new(|parts, asked| {
                let blob = parts.blob(asked).filter(|blob| blob.len() > 10_000)?;
                Some(Answer::new(200, [&blob[..], b"more"].concat()))
            }),
        ),
        (
            "larger than 4194304 bytes",
            Box::new(move |_, asked| {
                let mut answer = Answer::new(200, vec![b' '; 65536]);
                answer.endless = true;
                manifests(asked).then_some(answer)
            }),
        ),
        (
            "at line 1",
            Box::new(move |_, asked| {
                manifests(asked).then(|| Answer::new(200, "<html>internal secret</html>"))
            }),
        ),
        (
            "one redirect after the other",
            Box::new(move |_, asked| {
                manifests(asked).then(|| Answer::new(302, "").with("location", asked.path.clone()))
            }),
        ),
        (
            "has no image",
            Box::new(|_, _| Some(Answer::new(404, "internal secret"))),
        ),
        (
            "status 418",
            Box::new(|_, _| Some(Answer::new(418, "internal secret"))),
        ),
        (
            "may not be used",
            Box::new(move |_, asked| {
                let away = "http://169.254.169.254/latest/meta-data";
                asked
                    .path
                    .contains("/blobs/")
                    .then(|| Answer::new(302, "").with("location", away))
            }),
        ),
        (
            "may not be used",
            Box::new(move |_, asked| {
                let away = "http://127.0.0.1:1/admin";
                manifests(asked).then(|| Answer::new(307, "").with("location", away))
            }),
        ),
    ];
    for (number, (words, lie)) in lies.into_iter().enumerate() {
        let parts = good.clone();
        let site =
            Site::new(move |asked| lie(&parts, asked).unwrap_or_else(|| parts.answer(asked))).await;
        let error = site.error().await.to_string();
        assert!(error.contains(words), "{number}: {error}");
        assert!(!error.contains("secret"), "{number}: {error}");
        let layers = std::fs::read_dir(site.folder.path().join("layers")).unwrap();
        assert_eq!(layers.count(), 0, "{number}");
    }
}

#[tokio::test]
async fn an_image_above_the_limit_is_refused_before_a_layer_is_fetched() {
    let parts = Parts::one_layer();
    let huge = json!({
        "config": {"digest": Digest::of(parts.blobs.last().unwrap()), "size": 100},
        "layers": [{"digest": Digest::of(&parts.blobs[0]), "size": u64::MAX}],
    });
    let manifest = huge.to_string();
    let site = Site::new(move |asked| {
        if asked.path.contains("/manifests/") {
            return Answer::new(200, &*manifest);
        }
        parts.answer(asked)
    })
    .await;
    let error = site.error().await.to_string();
    assert!(error.contains("more than 10240 MiB"), "{error}");
    assert_eq!(site.count("/blobs/"), 1);
}

#[tokio::test]
async fn an_address_that_the_operator_does_not_allow_is_not_connected_to() {
    let server = Server::start(|_| Answer::new(200, "")).await;
    let site = Site::allowing(server, &[]);
    let error = site.error().await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("addresses.allowed"), "{error}");
    assert!(site.server.asked().is_empty());
}

#[tokio::test]
async fn a_registry_that_is_gone_does_not_take_what_is_known_away() {
    let parts = Parts::one_layer();
    let digest = parts.digest();
    let gone = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&gone);
    let site = Site::new(move |asked| {
        let mut answer = parts.answer(asked);
        if now.load(Ordering::SeqCst) == 1 {
            // Nothing of an answer, and an end.
            answer = Answer::new(200, "x");
            answer.status = 1;
        }
        answer
    })
    .await;
    site.pull().await.unwrap();
    gone.store(1, Ordering::SeqCst);
    assert_eq!(site.store.resolve(&site.reference()).await.unwrap(), digest);
}
