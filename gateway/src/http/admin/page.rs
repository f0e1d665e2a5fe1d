//! Lists a page at a time, in an order that stays.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;

use crate::{audit::chain::canonical, http::problem::AdminError, served::rendered::digest_hex};

/// Most items of one page.
pub const MAX_LIMIT: u32 = 1000;

/// Items of a page unless the request says how many.
pub const DEFAULT_LIMIT: u32 = 100;

/// Longest page token that is looked at.
const MAX_TOKEN_BYTES: usize = 1024;

/// Digits of the digest that tells one list from another.
const DIGITS: usize = 16;

/// Which page of a list is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    list: String,
    limit: usize,
    after: Option<String>,
}

impl Page {
    /// The page of the list called `name`, of which `filter` says which items are wanted.
    ///
    /// # Errors
    /// [`AdminError::Query`] for a limit nobody can have, [`AdminError::PageToken`] for the token of another list.
    pub(crate) fn new(
        name: &str,
        filter: &impl Serialize,
        limit: Option<u32>,
        token: Option<&str>,
    ) -> Result<Self, AdminError> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if limit == 0 || limit > MAX_LIMIT {
            return Err(AdminError::Query(format!("limit is {limit}; ask for 1 to {MAX_LIMIT}")));
        }
        let filter = canonical(&serde_json::to_value(filter).unwrap_or_default());
        let mut list = digest_hex(format!("{name}\n{filter}").as_bytes());
        list.truncate(DIGITS);
        let after = token.map(|token| opened(&list, token).ok_or(AdminError::PageToken)).transpose()?;
        Ok(Self { list, limit: limit as usize, after })
    }

    /// The key of the item before the page; `None` on the first page.
    pub(crate) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// As [`Page::after`], parsed.
    ///
    /// # Errors
    /// [`AdminError::PageToken`].
    pub(crate) fn after_parsed<T: std::str::FromStr>(&self) -> Result<Option<T>, AdminError> {
        self.after().map(|key| key.parse().map_err(|_| AdminError::PageToken)).transpose()
    }

    /// One item more than the page has: enough to know whether another page follows.
    pub(crate) fn wanted(&self) -> usize {
        self.limit + 1
    }

    /// The page made of the items that follow, of which there may be one more; and the token of the next page.
    pub(crate) fn cut<T>(&self, mut items: Vec<T>, key: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let next = items.last().filter(|_| more).map(|last| self.token(&key(last)));
        (items, next)
    }

    fn token(&self, key: &str) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}{key}", self.list))
    }
}

/// The key inside the token of this list.
fn opened(list: &str, token: &str) -> Option<String> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    text.strip_prefix(list).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let all: Vec<u32> = (0..25).collect();
        let mut seen = Vec::new();
        let mut token = None;
        for expected in [10, 10, 5] {
            let page = Page::new("numbers", &"even", Some(10), token.as_deref()).unwrap();
            let after: Option<u32> = page.after_parsed().unwrap();
            let rest = all.iter().copied().filter(|number| after.is_none_or(|after| *number > after));
            let (items, next) = page.cut(rest.take(page.wanted()).collect(), ToString::to_string);
            assert_eq!(items.len(), expected);
            seen.extend(items);
            token = next;
        }
        assert_eq!((seen, token), (all, None));
    }

    #[test]
    fn a_token_is_good_for_its_own_list() {
        let page = Page::new("numbers", &"even", Some(1), None).unwrap();
        let token = page.cut(vec![1, 2], ToString::to_string).1.unwrap();
        assert!(Page::new("numbers", &"even", None, Some(&token)).is_ok());
        for (name, filter, token) in [
            ("others", "even", token.as_str()),
            ("numbers", "odd", &token),
            ("numbers", "even", "%"),
            ("numbers", "even", &"A".repeat(2000)),
        ] {
            assert!(matches!(Page::new(name, &filter, None, Some(token)), Err(AdminError::PageToken)));
        }
        for limit in [0, MAX_LIMIT + 1] {
            assert!(matches!(Page::new("numbers", &"", Some(limit), None), Err(AdminError::Query(_))));
        }
    }
}
