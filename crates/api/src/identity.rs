//! Who is asking: the one place that decides it.
//!
//! For now whoever reaches the port says who he is (`X-Tenant-Id`), which is why the platform listens
//! on loopback only. Authentication replaces [`identify`] and nothing else.

use axum::http::HeaderMap;
use bugle_types::{FunctionId, FunctionName, FunctionUrn, ProductId, TenantId, Version};

use crate::Error;
use bugle_types::Code;

/// The tenant, and the product inside it, on whose behalf a request is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The tenant.
    pub tenant: TenantId,
    /// The product, normally none.
    pub product: Option<ProductId>,
}

/// The caller that the headers name: `X-Tenant-Id`, absent or empty `default`, and `X-Product-Id`.
///
/// # Errors
///
/// 4104 for a tenant or product that could not be part of a key (contract 2.6).
pub fn identify(headers: &HeaderMap) -> Result<Caller, Error> {
    let text = |name: &str| match headers.get(name).map(|value| value.to_str()) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(Err(_)) => Err(Error::field(format!("{name} is not text"))),
    };
    let refuse = |error: bugle_types::ParseError| Error::field(error);
    let tenant = text("X-Tenant-Id")?
        .map(str::parse)
        .transpose()
        .map_err(refuse)?;
    let product = text("X-Product-Id")?
        .map(str::parse)
        .transpose()
        .map_err(refuse)?;
    Ok(Caller {
        tenant: tenant.unwrap_or_default(),
        product,
    })
}

/// A function as a path names it: by name, or by URN with perhaps a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The function.
    pub name: FunctionName,
    /// The version that the URN names.
    pub version: Option<Version>,
}

impl Caller {
    /// Reads a path segment: a function name, or a URN of the caller's own.
    ///
    /// # Errors
    ///
    /// The contract's for each way in which a URN can be wrong (2.8).
    pub fn named(&self, segment: &str) -> Result<Named, Error> {
        if let Ok(name) = segment.parse() {
            return Ok(Named {
                name,
                version: None,
            });
        }
        let refuse = |code, message| Error {
            code,
            message,
            class: crate::Class::Field,
        };
        let parts: Vec<&str> = segment.split(':').collect();
        if !(6..=7).contains(&parts.len()) {
            return Err(Error::field(format!("invalid URN: {segment}")));
        }
        let owner = match &self.product {
            Some(product) => format!("{}@{product}", self.tenant),
            None => self.tenant.to_string(),
        };
        if parts[..5] != ["sn", "cn", "yrk", owner.as_str(), "function"] {
            return Err(refuse(
                Code::InvalidQueryURN,
                format!("invalid URN: {segment}"),
            ));
        }
        let name = parts[5].parse().map_err(|_| {
            refuse(
                Code::FunctionNameFormatErr,
                format!("invalid function name: {}", parts[5]),
            )
        })?;
        let version = parts
            .get(6)
            .map(|text| text.parse())
            .transpose()
            .map_err(|_| {
                refuse(
                    Code::InvalidQueryURN,
                    format!("invalid version: {}", parts[6]),
                )
            })?;
        Ok(Named { name, version })
    }

    /// The function version that a path segment names; the draft if it names none.
    pub fn function(&self, segment: &str) -> Result<FunctionId, Error> {
        let Named { name, version } = self.named(segment)?;
        Ok(self.id(name, version.unwrap_or(Version::Draft)))
    }

    /// A version of one of the caller's functions.
    pub fn id(&self, name: FunctionName, version: Version) -> FunctionId {
        FunctionId {
            tenant: self.tenant.clone(),
            product: self.product.clone(),
            name,
            version,
        }
    }

    /// The URN of one of the caller's functions, without version.
    pub fn urn(&self, name: FunctionName) -> FunctionUrn {
        FunctionUrn {
            tenant: self.tenant.clone(),
            product: self.product.clone(),
            name,
            version: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(tenant: &str) -> Caller {
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant-id", tenant.parse().unwrap());
        identify(&headers).unwrap()
    }

    #[test]
    fn without_a_header_the_tenant_is_the_default_one() {
        assert_eq!(
            identify(&HeaderMap::new()).unwrap().tenant,
            TenantId::default()
        );
        assert_eq!(caller("").tenant, TenantId::default());
    }

    #[test]
    fn a_tenant_that_breaks_keys_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant-id", "a/b c".parse().unwrap());
        assert_eq!(identify(&headers).unwrap_err().code, Code::InvalidUserParam);
    }

    #[test]
    fn urns_of_others_are_refused() {
        let caller = caller("t1");
        let named = caller.named("sn:cn:yrk:t1:function:0@svc@f:v1").unwrap();
        assert_eq!(named.version, Some("v1".parse().unwrap()));
        for (segment, code) in [
            ("sn:cn:yrk:t2:function:0@svc@f", Code::InvalidQueryURN),
            ("sn:cn:other:t1:function:0@svc@f", Code::InvalidQueryURN),
            (
                "sn:cn:yrk:t1:function:0@svc@f_",
                Code::FunctionNameFormatErr,
            ),
            ("sn:cn:yrk:t1:function:f:-", Code::InvalidQueryURN),
            ("a:b", Code::InvalidUserParam),
            ("a_b", Code::InvalidUserParam),
        ] {
            assert_eq!(caller.named(segment).unwrap_err().code, code, "{segment}");
        }
    }
}
