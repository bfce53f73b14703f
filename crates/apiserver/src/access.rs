//! Who may do what: tokens, users and the rules of their roles.

use std::collections::BTreeMap;

use crate::failure::Failure;
use crate::request::Path;

/// What some user may do in any namespace, as the rules of a role say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// API groups; the core group is the empty one.
    pub groups: Vec<String>,
    /// Plural names, with subresources as `pods/status`.
    pub resources: Vec<String>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verbs: Vec<String>,
}

/// A user behind a token.
#[derive(Debug, Clone)]
pub(crate) struct User {
    name: String,
    /// None: everything.
    rules: Option<Vec<Rule>>,
}

/// The tokens that were given out.
#[derive(Debug, Default)]
pub(crate) struct Access {
    users: BTreeMap<String, User>,
}

impl Access {
    /// Gives a token out. Without rules its user may do everything.
    pub(crate) fn grant(&mut self, token: &str, user: &str, rules: Option<Vec<Rule>>) {
        let name = user.to_owned();
        self.users.insert(token.to_owned(), User { name, rules });
    }

    /// The user of a request.
    ///
    /// # Errors
    /// 401 when its token was never given out.
    pub(crate) fn user(&self, authorization: Option<&str>) -> Result<User, Failure> {
        let Some(token) = authorization.and_then(|header| header.strip_prefix("Bearer ")) else {
            return Ok(User {
                name: "system:anonymous".to_owned(),
                rules: Some(Vec::new()),
            });
        };
        let user = self.users.get(token.trim()).cloned();
        user.ok_or_else(Failure::unauthorized)
    }
}

impl User {
    /// Whether the user may do that.
    ///
    /// # Errors
    /// 403 when no rule allows it.
    pub(crate) fn may(&self, verb: &str, path: &Path) -> Result<(), Failure> {
        let resource = path.resource;
        let name = match path.subresource {
            Some(sub) => format!("{}/{sub}", resource.plural),
            None => resource.plural.to_owned(),
        };
        let has =
            |list: &[String], wanted: &str| list.iter().any(|item| item == wanted || item == "*");
        let allowed = self.rules.as_ref().is_none_or(|rules| {
            rules.iter().any(|rule| {
                has(&rule.groups, resource.group)
                    && has(&rule.resources, &name)
                    && has(&rule.verbs, verb)
            })
        });
        if allowed {
            return Ok(());
        }
        let place = match &path.namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        let why = format!(
            "User \"{}\" cannot {verb} resource \"{name}\" in API group \"{}\" {place}",
            self.name, resource.group
        );
        Err(Failure::forbidden(resource, path.name.as_deref(), &why))
    }
}
