//! How FunctionGraph's clients name functions (`container-image` contract 2.1).

use std::fmt;

use crate::name::is_graph_name;
use crate::{FunctionId, FunctionName, ParseError, TenantId, Version};

/// The package of a function that names none.
const DEFAULT_PACKAGE: &str = "default";

const RULE: &str = "urn:fss:{region}:{project}:function:{package}:{name}[:{version}], or from its \
    end {name}, {package}:{name}, {project}:{package}:{name}, each part as registered";

/// A function as FunctionGraph's clients name it. The project is the tenant, the package the service
/// of the [`FunctionName`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GraphUrn {
    /// The project, where one is named.
    pub project: Option<TenantId>,
    /// Package and name.
    pub name: FunctionName,
    /// The version, where one is named.
    pub version: Option<Version>,
}

impl GraphUrn {
    /// The name of a function in a package; an empty package is the default one.
    ///
    /// # Errors
    ///
    /// [`ParseError`] for a name that is no name of FunctionGraph, or a package that is not 1–16
    /// letters and digits.
    pub fn name(package: &str, name: &str) -> Result<FunctionName, ParseError> {
        let package = if package.is_empty() {
            DEFAULT_PACKAGE
        } else {
            package
        };
        let refused = |what, text: &str, rule| Err(ParseError::new(what, text, rule));
        if !is_graph_name(name) {
            let rule =
                "1 to 60 letters, digits, '_' or '-', first a letter, last a letter or digit";
            return refused("function name", name, rule);
        }
        match format!("0@{package}@{name}").parse() {
            Ok(name) => Ok(name),
            Err(_) => refused("package", package, "1 to 16 letters or digits"),
        }
    }

    /// Reads any of the forms. An alias (`!name`) is no version that there is.
    ///
    /// # Errors
    ///
    /// [`ParseError`] for a text of another form.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let parts: Vec<&str> = text.split(':').collect();
        let (project, package, name, version) = match parts[..] {
            [name] => (None, "", name, None),
            [package, name] => (None, package, name, None),
            [project, package, name] => (Some(project), package, name, None),
            [project, package, name, version] => (Some(project), package, name, Some(version)),
            ["urn", "fss", _, project, "function", package, name] => {
                (Some(project), package, name, None)
            }
            ["urn", "fss", _, project, "function", package, name, version] => {
                (Some(project), package, name, Some(version))
            }
            _ => return Err(ParseError::new("function URN", text, RULE)),
        };
        Ok(Self {
            project: project.map(str::parse).transpose()?,
            name: Self::name(package, name)?,
            version: version.map(str::parse).transpose()?,
        })
    }

    /// The function version that a client of `project` means.
    ///
    /// # Errors
    ///
    /// The project that is named instead, if it is another.
    pub fn of(self, project: TenantId) -> Result<FunctionId, TenantId> {
        match self.project {
            Some(named) if named != project => Err(named),
            _ => Ok(FunctionId {
                tenant: project,
                product: None,
                name: self.name,
                version: self.version.unwrap_or(Version::Draft),
            }),
        }
    }
}

/// Shows a function as FunctionGraph's clients know it, in a region; the draft is `latest`.
#[derive(Clone, Copy, Debug)]
pub struct ShownUrn<'a> {
    /// The region of the installation.
    pub region: &'a str,
    /// The function.
    pub id: &'a FunctionId,
}

impl fmt::Display for ShownUrn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FunctionId {
            tenant,
            name,
            version,
            ..
        } = self.id;
        let (package, short) = (name.service(), name.short());
        write!(
            f,
            "urn:fss:{}:{tenant}:function:{package}:{short}:{version}",
            self.region
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        let urn = GraphUrn::parse(text).map_err(|error| error.to_string())?;
        urn.of("p1".parse().unwrap())
            .map(|id| id.to_string())
            .map_err(|other| format!("of {other}"))
    }

    #[test]
    fn every_form_names_the_same_function() {
        for text in [
            "thumb_1",
            "default:thumb_1",
            "p1:default:thumb_1",
            "p1:default:thumb_1:latest",
            "urn:fss:local:p1:function:default:thumb_1",
            "urn:fss:anywhere:p1:function:default:thumb_1:latest",
        ] {
            assert_eq!(
                shown(text).unwrap(),
                "p1/0@default@thumb_1/latest",
                "{text}"
            );
        }
        assert_eq!(
            shown("urn:fss:x:p1:function:app:f:v1").unwrap(),
            "p1/0@app@f/v1"
        );
    }

    #[test]
    fn another_project_is_told() {
        assert_eq!(shown("p2:default:f"), Err("of p2".to_owned()));
    }

    #[test]
    fn names_follow_functiongraphs_rule() {
        for name in ["a", "A-b_c9", &"x".repeat(60)] {
            assert!(GraphUrn::name("", name).is_ok(), "{name}");
        }
        for name in ["", "1a", "_a", "a_", "a-", "a.b", "é", &"x".repeat(61)] {
            assert!(GraphUrn::name("", name).is_err(), "{name}");
        }
        assert!(GraphUrn::name("my-package", "a").is_err());
        for text in ["", ":", "a:b:c:d:e", "urn:x:r:p:function:a:b", "f:!alias:x"] {
            assert!(GraphUrn::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_function_is_shown_with_its_region() {
        let urn = GraphUrn::parse("app:f_1").unwrap();
        let id = urn.of("p1".parse().unwrap()).unwrap();
        let shown = ShownUrn {
            region: "local",
            id: &id,
        };
        assert_eq!(
            shown.to_string(),
            "urn:fss:local:p1:function:app:f_1:latest"
        );
        let parsed = GraphUrn::parse(&shown.to_string()).unwrap();
        assert_eq!(parsed.of("p1".parse().unwrap()), Ok(id));
    }
}
