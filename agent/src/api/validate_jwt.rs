//! ValidateJWTSVID.

use std::sync::Arc;

use federation_specs::{
    bundle::BundleSet,
    jwt_svid::{self, VerifiedJwtSvid},
    proto::workload::{ValidateJwtsvidRequest, ValidateJwtsvidResponse},
};
use prost_types::{ListValue, Struct, Value, value::Kind};
use tonic::{Request, Status};

use super::Context;

/// Claims always shown of tokens of other trust domains.
const ALWAYS_SHOWN: [&str; 3] = ["sub", "exp", "aud"];

pub(super) async fn validate(
    context: &Context,
    request: &Request<ValidateJwtsvidRequest>,
) -> Result<ValidateJwtsvidResponse, Status> {
    let message = request.get_ref();
    if message.audience.is_empty() {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    if message.svid.is_empty() {
        return Err(Status::invalid_argument("svid must be specified"));
    }
    let selectors = context.caller(request).await?;
    let view = context.view(&selectors).await?;
    let bundles: BundleSet = view.jwt_bundles.values().map(Arc::clone).collect();
    let verified =
        jwt_svid::verify(&message.svid, Some(&message.audience), &bundles, context.clock.now()).map_err(|error| {
            tracing::debug!(%error, "a JWT-SVID was refused");
            Status::invalid_argument(error.to_string())
        })?;
    let own = context.cache.snapshot().trust_domain.clone();
    let is_foreign = *verified.id().trust_domain() != own;
    let shown =
        |name: &str| !is_foreign || ALWAYS_SHOWN.contains(&name) || context.allowed_foreign_jwt_claims.contains(name);
    Ok(ValidateJwtsvidResponse { spiffe_id: verified.id().to_string(), claims: Some(claims(&verified, shown)) })
}

fn claims(verified: &VerifiedJwtSvid, shown: impl Fn(&str) -> bool) -> Struct {
    let fields = verified
        .claims()
        .iter()
        .filter(|(name, _)| shown(name))
        .map(|(name, value)| {
            // A single audience may stand in the token as a text; it is shown as a list all the same.
            let value = if name == "aud" { audience(verified) } else { protobuf(value) };
            (name.clone(), value)
        })
        .collect();
    Struct { fields }
}

fn audience(verified: &VerifiedJwtSvid) -> Value {
    let values = verified.audience().iter().map(|text| value(Kind::StringValue(text.clone()))).collect();
    value(Kind::ListValue(ListValue { values }))
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

/// JSON as protobuf's `Value`. The depth is bounded by the token parser.
fn protobuf(json: &serde_json::Value) -> Value {
    value(match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(bool) => Kind::BoolValue(*bool),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(protobuf).collect() }),
        serde_json::Value::Object(members) => {
            let fields = members.iter().map(|(name, json)| (name.clone(), protobuf(json))).collect();
            Kind::StructValue(Struct { fields })
        }
    })
}
