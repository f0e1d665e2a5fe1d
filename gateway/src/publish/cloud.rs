//! What access to every cloud has in common: limits of requests and what failures mean.

use std::time::Duration;

use object_store::{ClientOptions, RetryConfig, client::HttpErrorKind};

use super::{
    PublisherError,
    error::{causes, chain, reason},
};
use crate::settings::Endpoint;

/// Longest one request takes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest a connection takes to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How requests are made: bounded, and over plain HTTP only where the settings allow it.
pub(super) fn client_options(endpoint: Option<&Endpoint>) -> ClientOptions {
    ClientOptions::new()
        .with_timeout(REQUEST_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.plain))
}

/// The runner retries, with its own waits; a request that is repeated below it could overwrite a newer one.
pub(super) fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: REQUEST_TIMEOUT, ..RetryConfig::default() }
}

/// What a failure of the crate `object_store` means.
pub(super) fn failed(action: &'static str, error: &object_store::Error) -> PublisherError {
    use object_store::Error;
    match error {
        Error::PermissionDenied { .. } => PublisherError::Denied { action, reason: said(error) },
        Error::Unauthenticated { .. } => PublisherError::Credentials(said(error)),
        Error::Precondition { .. } | Error::AlreadyExists { .. } => PublisherError::Conflict,
        Error::NotFound { .. } => PublisherError::Missing(said(error)),
        _ if is_network(error) => PublisherError::Unreachable(network(error)),
        _ => PublisherError::Refused(said(error)),
    }
}

fn each<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

fn is_network(error: &object_store::Error) -> bool {
    each(error)
        .filter_map(|cause| cause.downcast_ref::<object_store::client::HttpError>())
        .any(|error| error.kind() != HttpErrorKind::Decode)
}

/// The innermost cause says what happened; those around it name the request.
fn network(error: &object_store::Error) -> String {
    each(error).last().map_or_else(|| chain(error), |cause| reason(&cause.to_string()))
}

/// What the service said, without the words around it: `AccessDenied: Access Denied`.
pub(super) fn said(error: &object_store::Error) -> String {
    let text = causes(error);
    let tag = |name: &str| {
        let after = text.split_once(&format!("<{name}>"))?.1;
        Some(reason(after.split_once("</")?.0))
    };
    match (tag("Code"), tag("Message")) {
        (Some(code), Some(message)) if code != message => format!("{code}: {message}"),
        (Some(code), _) => code,
        // No document: the status alone, or whatever else was in the way.
        _ => reason(text.split_once("status code: ").map_or(&*text, |(_, status)| status.trim_end_matches([':', ' ']))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_service_are_found() {
        let error = |body: &str| object_store::Error::PermissionDenied {
            path: "a".to_owned(),
            source: format!("status 403: {body}").into(),
        };
        let denied = failed("writing", &error("<Error><Code>AccessDenied</Code><Message>Not\n you</Message></Error>"));
        assert_eq!(denied, PublisherError::Denied { action: "writing", reason: "AccessDenied: Not you".to_owned() });
        assert_eq!(said(&error("Server returned non-2xx status code: 403 Forbidden: ")), "403 Forbidden");
        assert!(said(&error("{}")).contains("status 403"));
    }
}
