//! How failures reach a caller: fixed texts for causes that are the issuer's own, precise ones for the caller's.

use std::fmt::Display;

use federation_specs::proto::types::{self, permission_denied_details::Reason};
use tonic::{Code, Status};

use super::{caller::Caller, rate_limit::RateLimiter};
use crate::store::StoreError;

/// An `Internal` status with a fixed text. The cause is logged and never sent.
pub(super) fn internal(text: &str, cause: &dyn Display) -> Status {
    tracing::error!(%cause, "{text}");
    Status::internal(text)
}

/// `InvalidArgument` with `context: cause`, for causes that describe the caller's input.
pub(super) fn invalid(context: &str, cause: impl Display) -> Status {
    Status::invalid_argument(format!("{context}: {cause}"))
}

/// A denial with the reason an agent acts upon, in `grpc-status-details-bin`.
pub(super) fn denied(message: &str, reason: Reason) -> Status {
    let details = federation_specs::convert::permission_denied_details(reason, message);
    Status::with_details(Code::PermissionDenied, message, details.into())
}

/// Translates a store error: `context: cause` with the code of the cause, or only `context` when the cause is the
/// issuer's own. `NotFound` carries `not_found` alone.
pub(super) fn from_store(context: &str, not_found: &str, error: &StoreError) -> Status {
    if error.is_internal() {
        return internal(context, error);
    }
    let code = match error {
        StoreError::NotFound { .. } => return Status::not_found(not_found),
        StoreError::PageToken(token) => {
            return Status::internal(format!("{context}: could not parse token '{token}'"));
        }
        StoreError::Entry(_)
        | StoreError::JoinToken(_)
        | StoreError::OwnTrustDomain
        | StoreError::FilterTooLarge(_) => Code::InvalidArgument,
        StoreError::EntryIdExists(_) | StoreError::SimilarEntry | StoreError::BundleExists => Code::AlreadyExists,
        StoreError::BundleInUse(_) => Code::FailedPrecondition,
        _ => Code::Internal,
    };
    Status::new(code, format!("{context}: {error}"))
}

/// The status of one successful item of a batch.
pub(super) fn item_ok() -> types::Status {
    types::Status { code: Code::Ok as i32, message: "OK".into() }
}

/// The status of one failed item of a batch.
pub(super) fn item_failed(status: &Status) -> types::Status {
    types::Status { code: status.code() as i32, message: status.message().to_owned() }
}

/// Takes `tokens` of the caller's address, waiting for them; local callers and switched-off limits pass.
pub(super) async fn limited(
    limiter: Option<&RateLimiter>,
    caller: &Caller,
    tokens: u32,
    context: &str,
) -> Result<(), Status> {
    let (Some(limiter), Some(address)) = (limiter, caller.address) else { return Ok(()) };
    let acquired = limiter.acquire(address, tokens, caller.deadline).await;
    acquired.map_err(|error| Status::resource_exhausted(format!("{context}: {error}")))
}
