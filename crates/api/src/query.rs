//! Query parameters, read leniently: a page that is no page has a meaning of its own.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The parameters of a request, the last of each name.
pub(crate) type Parameters = HashMap<String, String>;

fn text(parameters: &Parameters, name: &str) -> Option<String> {
    parameters
        .get(name)
        .filter(|text| !text.is_empty())
        .cloned()
}

/// Which version F4 asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetQuery {
    /// An exact version; wins over `qualifier`.
    pub version_number: Option<String>,
    /// A version or an alias.
    pub qualifier: Option<String>,
    /// Chooses the draft when no version is named.
    pub kind: Option<String>,
}

impl GetQuery {
    pub(crate) fn new(parameters: &Parameters) -> Self {
        Self {
            version_number: text(parameters, "versionNumber"),
            qualifier: text(parameters, "qualifier"),
            kind: text(parameters, "kind"),
        }
    }
}

/// What F7 deletes.
pub type DeleteQuery = GetQuery;

/// What F6 lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// A part of the name.
    pub name: Option<String>,
    /// An exact version.
    pub version: Option<String>,
    /// A kind.
    pub kind: Option<String>,
    /// The page.
    pub page: Page,
}

impl ListQuery {
    pub(crate) fn new(parameters: &Parameters) -> Self {
        Self {
            name: text(parameters, "name"),
            version: text(parameters, "versionNumber").or_else(|| text(parameters, "qualifier")),
            kind: text(parameters, "kind"),
            page: Page::new(parameters),
        }
    }
}

/// A page of a list (contract 3.6, paging).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The index as it was sent; `1` when it was not.
    pub index: String,
    /// The size as it was sent; `1000` when it was not.
    pub size: String,
}

/// Entries of a page when the request does not say; the most when its index is no page.
const DEFAULT_SIZE: usize = 1000;

/// The most entries of one answer: what is asked for beyond is on the next page.
const LARGEST_SIZE: usize = 10_000;

impl Default for Page {
    fn default() -> Self {
        Self {
            index: "1".to_owned(),
            size: DEFAULT_SIZE.to_string(),
        }
    }
}

impl Page {
    /// A page by its number, from 1, and its size.
    pub(crate) fn number(number: usize, size: usize) -> Self {
        Self {
            index: number.to_string(),
            size: size.to_string(),
        }
    }

    pub(crate) fn new(parameters: &Parameters) -> Self {
        let default = Self::default();
        Self {
            index: text(parameters, "pageIndex").unwrap_or(default.index),
            size: text(parameters, "pageSize").unwrap_or(default.size),
        }
    }

    /// How many entries to pass over and how many to show; none for a page that cannot be served.
    pub fn window(&self) -> Option<(usize, usize)> {
        let index = self.index.parse::<i64>().unwrap_or(0);
        if index == 0 {
            return Some((0, DEFAULT_SIZE));
        }
        let size = self
            .size
            .parse::<usize>()
            .ok()
            .filter(|size| *size > 0)?
            .min(LARGEST_SIZE);
        let before = usize::try_from(index - 1).ok()?;
        Some((before.checked_mul(size)?, size))
    }
}

/// Which pools; what is not given matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSelection {
    /// Exactly this pool.
    pub id: Option<String>,
    /// Exactly this group.
    pub group: Option<String>,
}

impl PoolSelection {
    pub(crate) fn new(parameters: &Parameters) -> Self {
        Self {
            id: text(parameters, "id"),
            group: text(parameters, "group"),
        }
    }
}

/// What P2 lists (contract 5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolQuery {
    /// Which pools.
    pub which: PoolSelection,
    /// How many to pass over and how many to show; none for a page that cannot be.
    pub window: Option<(usize, usize)>,
}

/// Pools of a page when the request does not say.
const DEFAULT_POOLS: i64 = 10;

impl PoolQuery {
    pub(crate) fn new(parameters: &Parameters) -> Result<Self, Error> {
        let limit = integer(parameters, "limit")?.unwrap_or(DEFAULT_POOLS);
        let page = match integer(parameters, "offset")?.unwrap_or(1) {
            0 => 1,
            page => page,
        };
        Ok(Self {
            which: PoolSelection::new(parameters),
            window: pool_window(page, limit),
        })
    }
}

fn pool_window(page: i64, limit: i64) -> Option<(usize, usize)> {
    let size = usize::try_from(limit)
        .ok()
        .filter(|size| *size > 0)?
        .min(LARGEST_SIZE);
    let before = usize::try_from(page.checked_sub(1)?).ok()?;
    Some((before.saturating_mul(size), size))
}

fn integer(parameters: &Parameters, name: &str) -> Result<Option<i64>, Error> {
    let Some(text) = text(parameters, name) else {
        return Ok(None);
    };
    let read = text.parse().map(Some);
    read.map_err(|error: std::num::ParseIntError| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let problem = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        let shown: String = text.chars().take(200).collect();
        Error::parameter(format!("strconv.Atoi: parsing {shown:?}: {problem}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_what_the_original_makes_of_them() {
        let window = |index: &str, size: &str| {
            Page {
                index: index.to_owned(),
                size: size.to_owned(),
            }
            .window()
        };
        assert_eq!(Page::default().window(), Some((0, 1000)));
        assert_eq!(window("2", "10"), Some((10, 10)));
        assert_eq!(window("0", "7"), Some((0, 1000)));
        assert_eq!(window("x", "7"), Some((0, 1000)));
        assert_eq!(window("1", "0"), None);
        assert_eq!(window("1", "x"), None);
        assert_eq!(window("-1", "5"), None);
        assert_eq!(window("1", "-5"), None);
        assert_eq!(window("9223372036854775807", "9999"), None);
        assert_eq!(window("1", "9999999"), Some((0, LARGEST_SIZE)));
    }

    #[test]
    fn pages_of_pools_count_from_one_and_never_wrap() {
        let query = |offset: &str, limit: &str| {
            let given = [("offset", offset), ("limit", limit)]
                .map(|(name, text)| (name.to_owned(), text.to_owned()));
            PoolQuery::new(&Parameters::from(given)).map(|query| query.window)
        };
        assert_eq!(query("", ""), Ok(Some((0, 10))));
        assert_eq!(query("0", "5"), Ok(Some((0, 5))));
        assert_eq!(query("3", "5"), Ok(Some((10, 5))));
        assert_eq!(query("-1", "5"), Ok(None));
        assert_eq!(query("1", "0"), Ok(None));
        assert_eq!(query("1", "-5"), Ok(None));
        assert_eq!(
            query("9223372036854775807", "9999999").unwrap().unwrap().1,
            LARGEST_SIZE
        );
        assert_eq!(
            query("1", "abc").unwrap_err().message,
            "strconv.Atoi: parsing \"abc\": invalid syntax. check input parameters"
        );
        assert!(query("99999999999999999999", "1").is_err());
    }
}
