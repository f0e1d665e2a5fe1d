//! Pages of a list: rows in the order they were stored, continued after the last row number.

use crate::store::StoreError;

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Page {
    /// At most so many rows; `None` returns all.
    pub size: Option<u32>,
    /// Only rows after this row number.
    pub after: i64,
}

impl Page {
    /// Everything at once.
    pub const ALL: Self = Self { size: None, after: 0 };

    /// From a request: a size of zero or below asks for everything, an empty token starts at the beginning.
    ///
    /// # Errors
    /// [`StoreError::PageToken`] for a token that is no number.
    pub fn parse(size: i32, token: &str) -> Result<Self, StoreError> {
        let size = u32::try_from(size).ok().filter(|size| *size > 0);
        // Without a page size the token plays no part, as the whole list is returned.
        if size.is_none() || token.is_empty() {
            return Ok(Self { size, after: 0 });
        }
        let after = token.parse().map_err(|_| StoreError::PageToken(token.chars().take(64).collect()))?;
        Ok(Self { size, after })
    }

    /// For a `limit` clause; `i64::MAX` without a size.
    pub(super) fn limit(&self) -> i64 {
        self.size.map_or(i64::MAX, i64::from)
    }
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Token for the next page: decimal row number of the last row, empty if the page is empty or everything was asked
    /// for.
    pub next_token: String,
}

impl<T> Paged<T> {
    /// From rows with their numbers.
    pub(super) fn new(page: Page, rows: Vec<(i64, T)>) -> Self {
        let next_token = match (page.size, rows.last()) {
            (Some(_), Some((row_id, _))) => row_id.to_string(),
            _ => String::new(),
        };
        Self { items: rows.into_iter().map(|(_, item)| item).collect(), next_token }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_turns_paging_on_and_a_bad_token_is_refused() {
        assert_eq!(Page::parse(0, "nonsense").unwrap(), Page::ALL);
        assert_eq!(Page::parse(-3, "").unwrap(), Page::ALL);
        assert_eq!(Page::parse(2, "17").unwrap(), Page { size: Some(2), after: 17 });
        assert!(matches!(Page::parse(2, "x"), Err(StoreError::PageToken(token)) if token == "x"));
    }

    #[test]
    fn only_a_page_with_rows_has_a_token() {
        let page = Page { size: Some(2), after: 0 };
        assert_eq!(Paged::new(page, vec![(4, 'a'), (9, 'b')]).next_token, "9");
        assert_eq!(Paged::<char>::new(page, vec![]).next_token, "");
        assert_eq!(Paged::new(Page::ALL, vec![(4, 'a')]).next_token, "");
    }
}
