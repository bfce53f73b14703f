//! F1–F7.

use std::borrow::Cow;

use bugle_api::identity::Named;
use bugle_api::{
    Caller, Class, DeleteQuery, Error, FunctionList, FunctionObject, FunctionRequest, FunctionsApi,
    GetQuery, ListQuery, Page, PublishRequest,
};
use bugle_store::{Compare, Op, Revision, Txn};
use bugle_types::{Code, FunctionName, Kind, RevisionId, SealedEnvironment, Version, VersionLabel};
use bytes::Bytes;

use crate::config::PublishedEnvironment;
use crate::index::Versioned;
use crate::keys::Keys;
use crate::object::{Shown, object};
use crate::record::{FunctionPart, Record, VersionPart};
use crate::rules::{self, Purpose};
use crate::{ATTEMPTS, Registry, conflict, published, unreadable};

/// The value of every status record.
pub(crate) const STATUS: &[u8] = br#"{"Status":"unavailable","InstanceNum":0}"#;

const LABEL_FORMAT: &str = "versionNumber can only contain digits, letters, dots(.), hyphens(-), \
    and underscores(_), and must start and end with a digit or letter, with less than 42 characters";

/// A record with what guards a change of it.
pub(crate) struct Loaded {
    pub(crate) record: Record,
    key: Bytes,
    revision: Revision,
}

impl Loaded {
    /// Holds as long as nobody has changed the record.
    pub(crate) fn unchanged(&self) -> Compare {
        Compare::ModRevision(self.key.clone(), self.revision)
    }
}

impl Registry {
    async fn load(&self, key: Bytes) -> Result<Option<Loaded>, Error> {
        let found = self
            .store
            .get(&key)
            .await
            .map_err(|error| unreadable(&error))?;
        let load = |found: bugle_store::KeyValue| {
            let revision = found.mod_revision;
            Record::decode(&found.value).map(|record| Loaded {
                record,
                key,
                revision,
            })
        };
        found.map(load).transpose()
    }

    /// A version; the draft under whichever spelling it is stored.
    pub(crate) async fn find(
        &self,
        caller: &Caller,
        name: &FunctionName,
        version: &Version,
    ) -> Result<Option<Loaded>, Error> {
        let spellings: &[&str] = match version {
            Version::Draft => &["latest", "$latest"],
            Version::Published(label) => &[label.as_str()],
        };
        for spelling in spellings {
            if let Some(found) = self.load(Keys(caller).record(name, spelling)).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The draft that `kind` selects.
    async fn draft(
        &self,
        caller: &Caller,
        name: &FunctionName,
        kind: Kind,
    ) -> Result<Option<Loaded>, Error> {
        self.load(Keys(caller).record(name, kind.draft())).await
    }

    /// Everything that a version is stored and published as.
    fn puts(&self, caller: &Caller, name: &FunctionName, record: &Record) -> Vec<Op> {
        let version = record.function_version.version.as_str();
        let keys = Keys(caller);
        let kind = record.kind();
        let mut ops = vec![
            Op::Put(keys.record(name, version), record.encode().into()),
            Op::Put(
                keys.published(name, kind, version),
                published::value(caller, name, &self.as_published(caller, name, record)).into(),
            ),
        ];
        if kind == Kind::Faas {
            let key = keys.instances(crate::config::CLUSTER, name, version);
            ops.push(Op::Put(key, published::instances(record).into()));
        }
        ops
    }

    /// The record with its variables as they are published. What cannot be opened stays sealed.
    fn as_published<'a>(
        &self,
        caller: &Caller,
        name: &FunctionName,
        record: &'a Record,
    ) -> Cow<'a, Record> {
        if self.config.publish_environment == PublishedEnvironment::Sealed {
            return Cow::Borrowed(record);
        }
        let sealed = record.environment();
        match self.keyring.open_environment(&caller.tenant, name, &sealed) {
            Ok(variables) => Cow::Owned(published::cleared(record, variables)),
            Err(error) => {
                tracing::error!(function = %name, %error, "stored variables cannot be read");
                Cow::Borrowed(record)
            }
        }
    }

    fn show(
        &self,
        caller: &Caller,
        name: &FunctionName,
        record: Record,
        shown: Shown,
    ) -> Result<FunctionObject, Error> {
        object(&self.keyring, caller, name, record, shown)
    }

    /// Encrypts what a request brought in clear.
    fn seal(
        &self,
        caller: &Caller,
        name: &FunctionName,
        version: &mut VersionPart,
        environment: Option<std::collections::BTreeMap<String, String>>,
    ) -> Result<(), Error> {
        let failed = |error: crate::KeyringError| {
            tracing::error!(%error, "variables cannot be encrypted");
            Error::other(Code::TransactionFailed, error.to_string())
        };
        let seal = |text: &str| {
            self.keyring
                .seal_text(&caller.tenant, name, text)
                .map_err(failed)
        };
        let before = SealedEnvironment(version.environment.clone());
        let before = self
            .keyring
            .open_environment(&caller.tenant, name, &before)
            .ok();
        // Equal variables keep their text: who follows the published value must see no change.
        if let Some(variables) = environment.filter(|new| before.as_ref() != Some(new)) {
            let sealed = self
                .keyring
                .seal(&caller.tenant, name, &variables)
                .map_err(failed)?;
            version.environment = sealed.0;
        }
        version.package.token = seal(&version.package.token)?;
        let info = &mut version.rootfs_spec_meta.storage_info;
        info.access_key = seal(&info.access_key)?;
        info.secret_key = seal(&info.secret_key)?;
        Ok(())
    }

    /// Layers are not kept by this program, so none that is named exists.
    fn check_layers(request: &FunctionRequest) -> Result<(), Error> {
        match request.layers.as_deref() {
            None | Some([]) => Ok(()),
            Some(_) => Err(Error::other(Code::KVNotFound, "KV not exist in etcd")),
        }
    }

    async fn records_of(&self, caller: &Caller, name: &FunctionName) -> Result<usize, Error> {
        let limit = self.config.max_versions.saturating_add(2);
        let prefix = Keys(caller).records(name);
        let found = self.store.range(&prefix, None, limit).await;
        Ok(found.map_err(|error| unreadable(&error))?.items.len())
    }

    /// A page of the versions that are `wanted`, and how many there are.
    async fn page(
        &self,
        caller: &Caller,
        window: (usize, usize),
        wanted: impl Fn(&Versioned, Kind) -> bool,
    ) -> Result<(Vec<Versioned>, usize), Error> {
        let revision = self.store.revision().await;
        let revision = revision.map_err(|error| unreadable(&error))?;
        Ok(self.index.page(revision, caller, window, wanted).await)
    }

    /// The records of a page; one that vanished since the index was read is left out.
    async fn load_page(
        &self,
        caller: &Caller,
        versions: Vec<Versioned>,
    ) -> Result<Vec<FunctionObject>, Error> {
        let mut functions = Vec::with_capacity(versions.len());
        for version in versions {
            // It was one when the index read it.
            let Ok(name) = version.name().parse() else {
                continue;
            };
            let key = Keys(caller).record(&name, version.version());
            if let Some(found) = self.load(key).await? {
                functions.push(self.show(caller, &name, found.record, Shown::Listed)?);
            }
        }
        Ok(functions)
    }

    async fn try_publish(
        &self,
        caller: &Caller,
        name: &FunctionName,
        request: &PublishRequest,
        kind: Kind,
    ) -> Result<Option<Record>, Error> {
        let count = self.records_of(caller, name).await?;
        if count > self.config.max_versions {
            return Err(Error::other(
                Code::FunctionVersionOutOfLimit,
                format!(
                    "the number of existing function versions is greater than the set value: {count}"
                ),
            ));
        }
        let Some(mut draft) = self.draft(caller, name, kind).await? else {
            return Err(Error::other(
                Code::FunctionNotFound,
                "failed to get function version",
            ));
        };
        if request.revision_id.as_deref() != Some(draft.record.revision().as_str()) {
            return Err(Error::other(
                Code::RevisionIDError,
                "revisionId is non latest version",
            ));
        }
        let now = self.clock.now();
        let label: VersionLabel = match request.version_number.as_deref() {
            None | Some("") => generated_label(now),
            Some("latest") => {
                return Err(Error::other(
                    Code::RepeatedPublishmentError,
                    "duplicate version number",
                ));
            }
            Some(text) => text.parse().map_err(|_| Error::parameter(LABEL_FORMAT))?,
        };
        let key = Keys(caller).record(name, label.as_str());
        if self.load(key.clone()).await?.is_some() {
            return Err(Error::other(
                Code::RepeatedPublishmentError,
                "duplicate version number",
            ));
        }
        let package = &draft.record.function_version.package;
        if package.storage_type == "s3"
            && package.bucket_id.is_empty()
            && package.object_id.is_empty()
        {
            return Err(Error::parameter("empty function version's bucket info"));
        }
        rules::late(draft.record.kind(), &draft.record.function_version)?;
        let mut version = draft.record.clone();
        self.pin_if_loose(&mut version.function_version).await?;
        version.function_version.version = label.to_string();
        version.function_version.description = request.version_desc.clone().unwrap_or_default();
        version.function_version.publish_time = now.to_string();
        let guard = draft.unchanged();
        // The draft is written too: it is what two publishes at once collide in.
        draft.record.function.version = label.to_string();
        version.function.version = label.to_string();
        let mut then = self.puts(caller, name, &version);
        then.push(Op::Put(
            Keys(caller).status(name, label.as_str()),
            Bytes::from_static(STATUS),
        ));
        then.push(Op::Put(draft.key.clone(), draft.record.encode().into()));
        let when = vec![guard, Compare::ModRevision(key, Revision(0))];
        Ok(self.commit(Txn { when, then }).await?.then_some(version))
    }

    async fn try_delete(
        &self,
        caller: &Caller,
        name: &FunctionName,
        version: &Version,
    ) -> Result<bool, Error> {
        let keys = Keys(caller);
        let mut then = Vec::new();
        let found = self.find(caller, name, version).await?;
        let revision = found.as_ref().map(|found| found.record.revision());
        let guard = match (version, found) {
            (Version::Published(label), Some(found)) => {
                let label = label.as_str();
                then.push(Op::Delete(keys.record(name, label)));
                then.push(Op::Delete(keys.status(name, label)));
                then.push(Op::Delete(keys.published(name, Kind::Faas, label)));
                then.push(Op::Delete(keys.published(name, Kind::Yrlib, label)));
                for cluster in self.config.all_clusters() {
                    then.push(Op::Delete(keys.instances(cluster, name, label)));
                    then.push(Op::DeletePrefix(keys.labels(cluster, name, label)));
                }
                found.unchanged()
            }
            (Version::Published(label), None) => {
                let exists = self.records_of(caller, name).await? > 0;
                return Err(if exists {
                    Error::version_not_found(name.as_str(), label.as_str())
                } else {
                    Error::function_not_found(name.base_or_full())
                });
            }
            (Version::Draft, Some(found)) => {
                then.push(Op::DeletePrefix(keys.records(name)));
                then.push(Op::DeletePrefix(keys.statuses(name)));
                then.extend(keys.published_all(name).map(Op::DeletePrefix));
                for cluster in self.config.all_clusters() {
                    then.push(Op::DeletePrefix(keys.instances_all(cluster, name)));
                }
                found.unchanged()
            }
            (Version::Draft, None) => {
                return Err(Error::function_not_found(name.base_or_full()));
            }
        };
        if *version == Version::Draft {
            // Before the name is free.
            let mut latest = self.deleted.lock();
            *latest = revision.max(latest.take());
        }
        let when = vec![guard];
        self.commit(Txn { when, then }).await
    }

    /// The revision of a function that is registered now.
    fn first_revision(&self, now: bugle_types::Timestamp) -> RevisionId {
        RevisionId::next(now, self.deleted.lock().as_ref())
    }
}

/// The name as "not found" shows it: of `0-svc-fn` only `fn` (contract 3.4).
trait BaseOrFull {
    fn base_or_full(&self) -> &str;
}

impl BaseOrFull for FunctionName {
    fn base_or_full(&self) -> &str {
        if self.as_str().starts_with("0@") {
            self.as_str()
        } else {
            self.base()
        }
    }
}

/// `vYYYYMMDD-hhmmss` in the machine's time zone (contract 3.3).
fn generated_label(now: bugle_types::Timestamp) -> VersionLabel {
    let time = jiff::Timestamp::from_millisecond(now.as_millis()).unwrap_or_default();
    let local = time.to_zoned(jiff::tz::TimeZone::system());
    let text = local.strftime("v%Y%m%d-%H%M%S").to_string();
    text.parse().expect("digits and a hyphen are a label")
}

/// The version that a URN and a query name together; none if neither does.
fn named_version(named: &Named, query: &GetQuery) -> Result<Option<Version>, Error> {
    let qualifier = query.qualifier.as_deref();
    let parsed: Option<Version> = qualifier
        .map(|text| text.parse().map_err(|_| Error::invalid_qualifier(text)))
        .transpose()?;
    if let (Some(ours), Some(theirs)) = (&named.version, &parsed)
        && ours != theirs
    {
        let message = format!("invalid URN: {}", named.name);
        return Err(Error {
            code: Code::InvalidQueryURN,
            message,
            class: Class::Field,
        });
    }
    Ok(match query.version_number.as_deref() {
        // A text that is no version names none that exists.
        Some(text) => Some(
            text.parse()
                .map_err(|_| Error::function_not_found(named.name.base_or_full()))?,
        ),
        None => parsed.or_else(|| named.version.clone()),
    })
}

impl FunctionsApi for Registry {
    async fn register(
        &self,
        caller: &Caller,
        request: FunctionRequest,
    ) -> Result<FunctionObject, Error> {
        let checked = rules::check(&self.config, &request, Purpose::Register)?;
        let kind = rules::kind(&request)?;
        let text = request.name.clone().unwrap_or_default();
        let name: FunctionName = text.parse().map_err(|_| Error::field(rules::NAME_FORMAT))?;
        let taken = || {
            let message = "the function name already exists. rename your function";
            Error::other(Code::FunctionNameExist, message)
        };
        let revision = self.store.revision().await;
        let seen = revision.map_err(|error| unreadable(&error))?;
        if self.find(caller, &name, &Version::Draft).await?.is_some() {
            return Err(taken());
        }
        Self::check_layers(&request)?;
        let now = self.clock.now();
        let time = now.to_string();
        let mut function = FunctionPart {
            name: text,
            tag: request.tags.clone(),
            create_time: time.clone(),
            ..FunctionPart::default()
        };
        let runtime = request.runtime.as_deref().unwrap_or_default();
        let mut version = VersionPart {
            runtime: rules::normal_runtime(kind, runtime),
            revision_id: self.first_revision(now).as_str().to_owned(),
            version: kind.draft().to_owned(),
            description: kind.draft().to_owned(),
            publish_time: time,
            sandbox_type: request.sandbox_type.clone().unwrap_or_default(),
            ..VersionPart::default()
        };
        let environment = request.environment.clone();
        rules::apply(
            &mut version,
            &mut function.description,
            request,
            checked,
            kind,
        );
        rules::late(kind, &version)?;
        self.pin(&mut version, environment.as_ref()).await?;
        self.seal(caller, &name, &mut version, environment)?;
        let record = Record::new(function, version);
        let mut then = self.puts(caller, &name, &record);
        let status = Keys(caller).status(&name, kind.draft());
        then.push(Op::Put(status, Bytes::from_static(STATUS)));
        // One name, one function, whatever its kind.
        let when = vec![Compare::Absent(Keys(caller).records(&name))];
        let committed = self.commit_new(Txn { when, then }, seen);
        // The answer is made while the store works.
        let shown = async { self.show(caller, &name, record, Shown::Listed) };
        let (committed, shown) = tokio::join!(biased; committed, shown);
        if !committed? {
            return Err(taken());
        }
        shown
    }

    async fn update(
        &self,
        caller: &Caller,
        segment: &str,
        request: FunctionRequest,
    ) -> Result<FunctionObject, Error> {
        let checked = rules::check(&self.config, &request, Purpose::Update)?;
        let selected = rules::kind(&request)?;
        let name = caller.named(segment)?.name;
        for _ in 0..ATTEMPTS {
            let Some(draft) = self.draft(caller, &name, selected).await? else {
                return Err(Error::function_not_found(name.base_or_full()));
            };
            if request.revision_id.as_deref() != Some(draft.record.revision().as_str()) {
                return Err(Error::other(
                    Code::RevisionIDError,
                    "revisionID is not the same",
                ));
            }
            Self::check_layers(&request)?;
            let guard = draft.unchanged();
            let mut record = draft.record;
            let kind = record.kind();
            record.touch(self.clock.now());
            let Record {
                function,
                function_version: version,
                ..
            } = &mut record;
            rules::apply(
                version,
                &mut function.description,
                request.clone(),
                checked,
                kind,
            );
            rules::late(kind, version)?;
            self.pin(version, request.environment.as_ref()).await?;
            self.seal(caller, &name, version, request.environment.clone())?;
            let then = self.puts(caller, &name, &record);
            if self
                .commit(Txn {
                    when: vec![guard],
                    then,
                })
                .await?
            {
                return self.show(caller, &name, record, Shown::Listed);
            }
            // Somebody was faster: with another update the revision is another now.
        }
        Err(conflict())
    }

    async fn publish(
        &self,
        caller: &Caller,
        segment: &str,
        request: PublishRequest,
    ) -> Result<FunctionObject, Error> {
        let name = caller.named(segment)?.name;
        let text = request.kind.as_deref().unwrap_or_default();
        let kind: Kind = text.parse().unwrap_or(Kind::Yrlib);
        for _ in 0..ATTEMPTS {
            if let Some(record) = self.try_publish(caller, &name, &request, kind).await? {
                return self.show(caller, &name, record, Shown::Queried);
            }
        }
        Err(conflict())
    }

    async fn get(
        &self,
        caller: &Caller,
        segment: &str,
        query: GetQuery,
    ) -> Result<FunctionObject, Error> {
        let named = caller.named(segment)?;
        // Without a version: the draft, of whichever kind (3.4 `[rec]`).
        let version = named_version(&named, &query)?.unwrap_or(Version::Draft);
        let Some(found) = self.find(caller, &named.name, &version).await? else {
            return Err(Error::function_not_found(named.name.base_or_full()));
        };
        self.show(caller, &named.name, found.record, Shown::Queried)
    }

    async fn versions(
        &self,
        caller: &Caller,
        segment: &str,
        page: &Page,
    ) -> Result<(Vec<FunctionObject>, usize), Error> {
        let wanted = caller.named(segment)?.name;
        let Some(window) = page.window() else {
            return Err(Error::other(Code::PageInfoError, "page size cannot be 0"));
        };
        let (places, total) = self
            .page(caller, window, |version, _| {
                version.name() == wanted.as_str()
            })
            .await?;
        Ok((self.load_page(caller, places).await?, total))
    }

    async fn list(&self, caller: &Caller, query: ListQuery) -> Result<FunctionList, Error> {
        let Some(window) = query.page.window() else {
            return Ok(FunctionList::default());
        };
        let ListQuery {
            name: part,
            version: exact,
            kind,
            ..
        } = query;
        // Both spellings list drafts of either kind.
        let exact: Option<Result<Version, String>> =
            exact.map(|text| text.parse().map_err(|_| text));
        let is_wanted_version = |version: &Versioned| match &exact {
            None => true,
            Some(Ok(wanted)) => version.version().parse().as_ref() == Ok(wanted),
            Some(Err(_)) => false,
        };
        let kind: Option<Option<Kind>> = kind.map(|text| text.parse().ok());
        let wanted = |version: &Versioned, its_kind| {
            part.as_deref()
                .is_none_or(|part| version.name().contains(part))
                && is_wanted_version(version)
                && kind.is_none_or(|kind| kind == Some(its_kind))
        };
        let (places, total) = self.page(caller, window, wanted).await?;
        Ok(FunctionList {
            functions: Some(self.load_page(caller, places).await?),
            total,
        })
    }

    async fn delete(
        &self,
        caller: &Caller,
        segment: &str,
        query: DeleteQuery,
    ) -> Result<(), Error> {
        let named = caller.named(segment)?;
        let version = match named_version(&named, &query) {
            Ok(version) => version.unwrap_or(Version::Draft),
            // A text that is no version: the function may still be unknown altogether.
            Err(error) if error.code == Code::FunctionNotFound => {
                let wanted = query.version_number.unwrap_or_default();
                let exists = self.records_of(caller, &named.name).await? > 0;
                return Err(if exists {
                    Error::version_not_found(named.name.as_str(), &wanted)
                } else {
                    error
                });
            }
            Err(error) => return Err(error),
        };
        for _ in 0..ATTEMPTS {
            if self.try_delete(caller, &named.name, &version).await? {
                return Ok(());
            }
        }
        Err(conflict())
    }
}
