//! Function URNs: `sn:cn:yrk:{tenant}[@{product}]:function:{name}[:{version}]` (contract 2.8).

use std::fmt;
use std::str::FromStr;

use crate::{FunctionName, Kind, ParseError, ProductId, TenantId, Version};

/// The business of every function; a client cannot choose it (contract 2.6).
pub const BUSINESS: &str = "yrk";

/// The prefix and zone of every URN, the values the reference ships with.
const PREFIX: &str = "sn:cn:yrk";

/// The address of a function, or of one version of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FunctionUrn {
    /// The owner.
    pub tenant: TenantId,
    /// The product inside the tenant, normally none.
    pub product: Option<ProductId>,
    /// The function.
    pub name: FunctionName,
    /// The version; none addresses the function as a whole, and its draft when it is invoked.
    pub version: Option<Version>,
}

impl FunctionUrn {
    /// The canonical text. `kind` decides how the draft is spelled.
    pub fn to_text(&self, kind: Kind) -> String {
        match &self.version {
            Some(version) => format!("{self:#}:{}", version.shown(kind)),
            None => format!("{self:#}"),
        }
    }
}

impl fmt::Display for FunctionUrn {
    /// The URN; `{:#}` leaves the version out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}:{}", self.tenant)?;
        if let Some(product) = &self.product {
            write!(f, "@{product}")?;
        }
        write!(f, ":function:{}", self.name)?;
        match &self.version {
            Some(version) if !f.alternate() => write!(f, ":{version}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for FunctionUrn {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let malformed = || {
            ParseError::new(
                "URN",
                text,
                "sn:cn:yrk:{tenant}:function:{name}[:{version}]",
            )
        };
        let rest = text.strip_prefix(PREFIX).and_then(|r| r.strip_prefix(':'));
        let mut parts = rest.ok_or_else(malformed)?.split(':');
        let owner = parts.next().ok_or_else(malformed)?;
        if parts.next() != Some("function") {
            return Err(malformed());
        }
        let name = parts.next().ok_or_else(malformed)?.parse()?;
        let version = parts.next().map(str::parse).transpose()?;
        if parts.next().is_some() {
            return Err(malformed());
        }
        let (tenant, product) = match owner.split_once('@') {
            Some((tenant, product)) => (tenant, Some(product.parse()?)),
            None => (owner, None),
        };
        Ok(Self {
            tenant: tenant.parse()?,
            product,
            name,
            version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_urn_survives_the_way_through_text() {
        for text in [
            "sn:cn:yrk:default:function:0@svc@hello",
            "sn:cn:yrk:default:function:0@svc@hello:latest",
            "sn:cn:yrk:t1@p1:function:0-svc-x:V1",
        ] {
            let urn: FunctionUrn = text.parse().unwrap();
            assert_eq!(urn.to_string(), text);
        }
    }

    #[test]
    fn malformed_urns_are_refused() {
        for text in [
            "",
            "sn:cn:yrk:default:function",
            "sn:cn:yrk:default:function:",
            "sn:cn:yrk:default:function:f:latest:x",
            "sn:cn:other:default:function:f",
            "sn:cn:yrk:a/b:function:f",
        ] {
            assert!(text.parse::<FunctionUrn>().is_err(), "{text}");
        }
    }
}
