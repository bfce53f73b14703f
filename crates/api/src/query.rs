//! Query parameters, read leniently: a page that is no page has a meaning of its own.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

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
}
