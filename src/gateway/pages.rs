//! Lists of the admin API, read page by page to the end.

use gateway::api::audit::AuditPage;
use gateway::api::publishers::PublisherList;
use gateway::api::sources::SourceList;
use gateway::api::{BundleHistory, BundleList, RelationshipList};
use gateway::http::admin::page::MAX_LIMIT;
use serde::de::DeserializeOwned;

use super::client::Client;
use crate::failure::Failure;

/// An answer that is one page of a list.
pub(super) trait Paged: DeserializeOwned {
    /// Adds what the next page holds, and takes over its token.
    fn extend(&mut self, next: Self);
    /// Takes the token of the next page out.
    fn next(&mut self) -> Option<String>;
    /// How many items there are.
    fn count(&self) -> usize;
}

macro_rules! paged {
    ($($list:ty: $items:ident;)*) => {
        $(
            impl Paged for $list {
                fn extend(&mut self, next: Self) {
                    self.$items.extend(next.$items);
                    self.next_page_token = next.next_page_token;
                }

                fn next(&mut self) -> Option<String> {
                    self.next_page_token.take()
                }

                fn count(&self) -> usize {
                    self.$items.len()
                }
            }
        )*
    };
}

paged! {
    RelationshipList: relationships;
    BundleList: bundles;
    BundleHistory: bundles;
    SourceList: sources;
    PublisherList: publishers;
    AuditPage: records;
}

/// How many items a list has at most.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Limit {
    /// At most this many; all of them unless given
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: Option<u32>,
}

/// The list at `path`, of which `filters` (name and value) say what is wanted.
pub(super) async fn read<T: Paged>(
    client: &Client,
    path: &str,
    filters: &[(&str, Option<String>)],
    limit: Option<u32>,
) -> Result<T, Failure> {
    let mut token: Option<String> = None;
    let mut all: Option<T> = None;
    loop {
        let read = u32::try_from(all.as_ref().map_or(0, T::count)).unwrap_or(u32::MAX);
        let wanted = limit.map_or(MAX_LIMIT, |limit| limit.saturating_sub(read).min(MAX_LIMIT));
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &wanted.to_string());
        for (name, value) in filters {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        if let Some(token) = &token {
            query.append_pair("page_token", token);
        }
        let mut page: T = client.get(&format!("{path}?{}", query.finish())).await?;
        token = page.next();
        let done = match &mut all {
            None => all.insert(page).count(),
            Some(all) => {
                all.extend(page);
                all.count()
            }
        };
        let enough = limit.is_some_and(|limit| done >= limit as usize);
        match all {
            Some(all) if token.is_none() || enough => return Ok(all),
            _ => {}
        }
    }
}
