//! Errors of the admin API as problem details (RFC 9457).

use std::sync::Arc;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use federation_specs::{
    id::{IdError, TrustDomain},
    x509_svid::X509SvidError,
};
use http::{HeaderValue, Method, StatusCode, header};

use crate::{
    api::{PROBLEM_MEDIA_TYPE, PROBLEM_TYPE_PREFIX, Problem, Role},
    audit::MAX_WHY_BYTES,
    managed::error::ManagedError,
    refresh::{decision_error::DecisionError, manager::RefreshError},
    store::StoreError,
};

/// Makes [`Kind`] of a table: name, status, last part of the type URI.
macro_rules! kinds {
    ($($name:ident = $status:ident $slug:literal;)*) => {
        /// The kinds of problems. Their types never change; docs/admin-api.md says what to do about each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Kind { $($name,)* }

        impl Kind {
            /// All of them.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];

            fn row(self) -> (StatusCode, &'static str) {
                match self { $(Self::$name => (StatusCode::$status, $slug),)* }
            }
        }
    };
}

kinds! {
    BadTrustDomain = BAD_REQUEST "bad-trust-domain";
    BadQuery = BAD_REQUEST "bad-query";
    BadPageToken = BAD_REQUEST "bad-page-token";
    BadBody = BAD_REQUEST "bad-request-body";
    BadCondition = BAD_REQUEST "bad-condition";
    AmbiguousBundle = BAD_REQUEST "ambiguous-bundle";
    RoleNeeded = FORBIDDEN "role-needed";
    IdentityNotValid = FORBIDDEN "identity-not-valid";
    UnknownPath = NOT_FOUND "unknown-path";
    UnknownRelationship = NOT_FOUND "unknown-relationship";
    UnknownBundle = NOT_FOUND "unknown-bundle";
    UnknownDomain = NOT_FOUND "unknown-trust-domain";
    UnknownWebhook = NOT_FOUND "unknown-webhook";
    MethodNotAllowed = METHOD_NOT_ALLOWED "method-not-allowed";
    ConflictingEndpoints = CONFLICT "conflicting-endpoints";
    DecisionNotPossible = CONFLICT "decision-not-possible";
    DefinedElsewhere = CONFLICT "defined-elsewhere";
    RemovalNotConfirmed = CONFLICT "removal-not-confirmed";
    Changed = PRECONDITION_FAILED "changed-meanwhile";
    BodyTooLarge = PAYLOAD_TOO_LARGE "request-body-too-large";
    NotJson = UNSUPPORTED_MEDIA_TYPE "request-body-not-json";
    UnacceptableBundle = UNPROCESSABLE_ENTITY "unacceptable-bundle";
    UnusableRelationship = UNPROCESSABLE_ENTITY "unusable-relationship";
    TooManyRelationships = UNPROCESSABLE_ENTITY "too-many-relationships";
    ConditionNeeded = PRECONDITION_REQUIRED "condition-needed";
    TooManyRefreshes = TOO_MANY_REQUESTS "too-many-refreshes";
    DatabaseFailure = INTERNAL_SERVER_ERROR "database-failure";
    Defect = INTERNAL_SERVER_ERROR "internal-failure";
    NotPublished = INTERNAL_SERVER_ERROR "bundle-not-published";
    RefreshFailed = BAD_GATEWAY "refresh-failed";
    RefreshGivenUp = SERVICE_UNAVAILABLE "refresh-given-up";
    Overloaded = SERVICE_UNAVAILABLE "overloaded";
}

impl Kind {
    /// The HTTP status of its answers.
    pub(crate) fn status(self) -> StatusCode {
        self.row().0
    }

    /// The URI that names it.
    pub(crate) fn uri(self) -> String {
        format!("{PROBLEM_TYPE_PREFIX}{}", self.row().1)
    }

    /// Its name in words.
    pub(crate) fn title(self) -> String {
        self.row().1.replace('-', " ")
    }
}

/// Why an admin request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("{0}")]
    TrustDomain(#[from] IdError),
    #[error("the path cannot be read: {0}")]
    Path(String),
    #[error("no relationship with trust domain `{0}`; see the list of relationships")]
    NoRelationship(TrustDomain),
    #[error("no bundle of trust domain `{0}` is served or held")]
    NoBundle(TrustDomain),
    #[error("trust domain `{0}` is not served here; see the list of sources")]
    NoDomain(TrustDomain),
    #[error("no webhook is named `{0}`; see the list of webhooks")]
    NoWebhook(String),
    #[error("the query is not what is expected here: {0}")]
    Query(String),
    #[error("the page token cannot be used for this list; begin with its first page")]
    PageToken,
    #[error("the request body is not what is expected here: {0}")]
    Body(String),
    #[error("the request body is larger than this operation takes; docs/admin-api.md names the limits")]
    LargeBody,
    #[error("the request body is {0}; send it as Content-Type: application/json")]
    MediaType(String),
    #[error("the reason is longer than {MAX_WHY_BYTES} bytes")]
    LongReason,
    #[error("If-Match cannot be read; send the ETag of an answer as it is, quotation marks included")]
    Condition,
    #[error("{0}")]
    ConditionNeeded(&'static str),
    #[error("what the decision is about has changed since it was looked at; nothing was done, look again")]
    Changed,
    #[error(
        "{caller} {}, and this needs {needed}; the roles are under admin.roles in the gateway's configuration",
        has.map_or_else(|| "has no role here".to_owned(), |role| format!("has the role {role}"))
    )]
    RoleNeeded { caller: String, has: Option<Role>, needed: Role },
    #[error("the X509-SVID of this connection is not good any more: {0}; connect again with a current one")]
    Identity(Arc<X509SvidError>),
    #[error("nothing is at `{0}`; /v1/openapi.json describes what there is")]
    NoSuchPath(String),
    #[error("this path does not take {0}")]
    Method(Method),
    #[error("more requests than can be answered at once; try again")]
    Overloaded,
    #[error(transparent)]
    Refresh(#[from] RefreshError),
    #[error(transparent)]
    Managed(#[from] ManagedError),
    #[error("what the sources give cannot be published: {0}")]
    Source(#[source] service_kit::BoxError),
    #[error("the gateway's database failed; see its log")]
    Store(#[from] StoreError),
    #[error("the request failed, which is a defect of the gateway; see its log")]
    Defect,
}

impl AdminError {
    fn kind(&self) -> Kind {
        match self {
            Self::TrustDomain(_) | Self::Path(_) => Kind::BadTrustDomain,
            Self::NoRelationship(_) | Self::Refresh(RefreshError::Unknown(_)) => Kind::UnknownRelationship,
            Self::NoBundle(_) => Kind::UnknownBundle,
            Self::NoDomain(_) => Kind::UnknownDomain,
            Self::NoWebhook(_) => Kind::UnknownWebhook,
            Self::Query(_) => Kind::BadQuery,
            Self::PageToken => Kind::BadPageToken,
            Self::Body(_) | Self::LongReason => Kind::BadBody,
            Self::LargeBody => Kind::BodyTooLarge,
            Self::MediaType(_) => Kind::NotJson,
            Self::Condition => Kind::BadCondition,
            Self::ConditionNeeded(_) => Kind::ConditionNeeded,
            Self::Changed => Kind::Changed,
            Self::RoleNeeded { .. } => Kind::RoleNeeded,
            Self::Identity(_) => Kind::IdentityNotValid,
            Self::NoSuchPath(_) => Kind::UnknownPath,
            Self::Method(_) => Kind::MethodNotAllowed,
            Self::Overloaded => Kind::Overloaded,
            Self::Refresh(RefreshError::Failed(_)) => Kind::RefreshFailed,
            Self::Refresh(RefreshError::Conflict { .. }) => Kind::ConflictingEndpoints,
            Self::Refresh(RefreshError::Busy(_)) => Kind::TooManyRefreshes,
            Self::Refresh(RefreshError::Decision(error)) => decision(error),
            Self::Refresh(RefreshError::Stopped) => Kind::RefreshGivenUp,
            Self::Managed(error) => managed(error),
            Self::Source(_) => Kind::NotPublished,
            Self::Store(_) => Kind::DatabaseFailure,
            Self::Defect => Kind::Defect,
        }
    }
}

fn managed(error: &ManagedError) -> Kind {
    match error {
        ManagedError::Invalid(_) | ManagedError::Twice(_) => Kind::UnusableRelationship,
        ManagedError::Set(_) => Kind::BadBody,
        ManagedError::Unknown(_) => Kind::UnknownRelationship,
        ManagedError::Version { .. } | ManagedError::Gone(_) | ManagedError::Exists(_) => Kind::Changed,
        ManagedError::ManyRemovals { .. } => Kind::RemovalNotConfirmed,
        ManagedError::Configured(_) | ManagedError::Elsewhere(_) | ManagedError::OtherSet { .. } => {
            Kind::DefinedElsewhere
        }
        ManagedError::TooMany => Kind::TooManyRelationships,
        ManagedError::Store(_) => Kind::DatabaseFailure,
        ManagedError::Defect(_) => Kind::Defect,
    }
}

fn decision(error: &DecisionError) -> Kind {
    match error {
        DecisionError::Changed => Kind::Changed,
        DecisionError::UnknownBundle { .. } => Kind::UnknownBundle,
        DecisionError::Ambiguous { .. } => Kind::AmbiguousBundle,
        DecisionError::Damaged { .. } | DecisionError::Store(_) => Kind::DatabaseFailure,
        DecisionError::Limit(_) => Kind::UnacceptableBundle,
        _ => Kind::DecisionNotPossible,
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let mut detail = self.to_string();
        match &self {
            Self::Store(error)
            | Self::Managed(ManagedError::Store(error))
            | Self::Refresh(RefreshError::Decision(DecisionError::Store(error))) => {
                tracing::error!(%error, "admin request failed");
                detail = "the gateway's database failed; see its log".to_owned();
            }
            Self::Managed(ManagedError::Defect(error)) => {
                tracing::error!(%error, "admin request failed");
                detail = "the request failed, which is a defect of the gateway; see its log".to_owned();
            }
            _ => {}
        }
        let kind = self.kind();
        let status = kind.status();
        let needed_role = match self {
            Self::RoleNeeded { needed, .. } => Some(needed),
            _ => None,
        };
        let problem = Problem { kind: kind.uri(), title: kind.title(), status: status.as_u16(), detail, needed_role };
        let mut response = Response::new(Body::from(serde_json::to_vec(&problem).unwrap_or_default()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        if matches!(kind, Kind::TooManyRefreshes | Kind::Overloaded) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_documented() {
        let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/admin-api.md")).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for kind in Kind::ALL {
            assert!(seen.insert(kind.uri()), "{kind:?} has the type of another one");
            let row =
                format!("| {} | `{}` |", kind.status().as_u16(), kind.uri().trim_start_matches(PROBLEM_TYPE_PREFIX));
            assert!(guide.contains(&row), "docs/admin-api.md has no row that begins {row}");
        }
    }
}
