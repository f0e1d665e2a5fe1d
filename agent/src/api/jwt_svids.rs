//! FetchJWTSVID.

use std::sync::Arc;

use federation_specs::{
    id::SpiffeId,
    proto::workload::{Jwtsvid, JwtsvidRequest, JwtsvidResponse},
};
use futures::{StreamExt, TryStreamExt, stream};
use time::OffsetDateTime;
use tonic::{Code, Request, Status};

use super::{Context, no_identity};
use crate::{
    cache::{
        entry::Entry,
        jwt::{FetchError, JwtSvid, Key},
    },
    issuer::{IssuerClient, IssuerError},
};

/// Audiences accepted in one request.
const MAX_AUDIENCES: usize = 256;

/// Bytes of all audiences of one request: what makes a token too long for any verifier is not worth a place in the cache.
const MAX_AUDIENCE_BYTES: usize = 16 << 10;

/// Tokens fetched at the same time for one request.
const PARALLEL_FETCHES: usize = 8;

pub(super) async fn fetch(context: &Context, request: &Request<JwtsvidRequest>) -> Result<JwtsvidResponse, Status> {
    let message = request.get_ref();
    // The issuer drops empty audiences; with none left it could only fail, again and again.
    let audiences: Arc<[String]> = message.audience.iter().filter(|audience| !audience.is_empty()).cloned().collect();
    if audiences.is_empty() {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    if audiences.len() > MAX_AUDIENCES {
        return Err(Status::invalid_argument(format!("more than {MAX_AUDIENCES} audiences")));
    }
    if audiences.iter().map(String::len).sum::<usize>() > MAX_AUDIENCE_BYTES {
        return Err(Status::invalid_argument(format!("audiences are longer than {MAX_AUDIENCE_BYTES} bytes together")));
    }
    let requested = match message.spiffe_id.as_str() {
        "" => None,
        text => Some(
            SpiffeId::parse(text)
                .map_err(|error| Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}")))?,
        ),
    };
    let selectors = context.caller(request).await?;
    let view = context.view(&selectors).await?;
    let wanted: Vec<Arc<Entry>> = view
        .identities
        .into_iter()
        .filter(|entry| requested.as_ref().is_none_or(|requested| entry.spiffe_id == *requested))
        .collect();
    if wanted.is_empty() {
        return Err(no_identity());
    }
    let fetches = wanted.into_iter().map(|entry| identity(context.clone(), entry, Arc::clone(&audiences)));
    let svids = stream::iter(fetches).buffered(PARALLEL_FETCHES).try_collect().await?;
    Ok(JwtsvidResponse { svids })
}

/// The token of one identity.
async fn identity(context: Context, entry: Arc<Entry>, audiences: Arc<[String]>) -> Result<Jwtsvid, Status> {
    let token = token(&context, &entry, &audiences).await.map_err(|error| {
        tracing::warn!(id = %entry.spiffe_id, %error, "JWT-SVID could not be fetched");
        Status::unavailable(format!("could not fetch JWT-SVID: {error}"))
    })?;
    Ok(Jwtsvid { spiffe_id: entry.spiffe_id.to_string(), svid: token.token.clone(), hint: entry.hint.clone() })
}

async fn token(context: &Context, entry: &Entry, audiences: &Arc<[String]>) -> Result<Arc<JwtSvid>, FetchError> {
    let (issuer, id) = (Arc::clone(&context.issuer), entry.id.clone());
    let fetched = {
        let audiences = audiences.to_vec();
        move || async move { sign(&issuer, &id, audiences).await }
    };
    // A token with an ID of its own is for one use.
    if entry.jwt_svid_include_jti {
        return fetched().await.map(Arc::new);
    }
    context.tokens.get(Key::new(entry.spiffe_id.clone(), audiences), fetched).await
}

async fn sign(issuer: &IssuerClient, entry_id: &str, audiences: Vec<String>) -> Result<JwtSvid, FetchError> {
    let svid = issuer.sign_jwt_svid(entry_id, audiences).await.map_err(|error| {
        tracing::debug!(entry_id, %error, "NewJWTSVID failed");
        FetchError(reason(&error))
    })?;
    let time = |seconds| {
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| FetchError("the issuer sent a malformed token".into()))
    };
    Ok(JwtSvid { token: svid.token, issued_at: time(svid.issued_at)?, expires_at: time(svid.expires_at)? })
}

/// What the workload is told; details are in the agent's log.
fn reason(error: &IssuerError) -> String {
    match error {
        IssuerError::TimedOut { .. } => "the issuer did not answer in time".into(),
        IssuerError::Malformed { .. } => "the issuer sent a malformed answer".into(),
        IssuerError::Call { status, .. } => match status.code() {
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => {
                "the issuer cannot be reached".into()
            }
            _ => status.message().to_string(),
        },
    }
}
