//! The claims RFC 7519 section 4.1 registers, with their types.

use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

use super::JwtSvidError;

pub(super) struct RegisteredClaims {
    pub(super) subject: Option<String>,
    pub(super) audience: Vec<String>,
    pub(super) expires_at: Option<OffsetDateTime>,
    pub(super) not_before: Option<OffsetDateTime>,
    pub(super) issued_at: Option<OffsetDateTime>,
}

impl RegisteredClaims {
    pub(super) fn read(claims: &Map<String, Value>) -> Result<Self, JwtSvidError> {
        Ok(Self {
            subject: match claims.get("sub") {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) => Some(text.clone()),
                Some(_) => return Err(wrong_type("sub", "a text")),
            },
            audience: audience(claims)?,
            expires_at: time(claims, "exp")?,
            not_before: time(claims, "nbf")?,
            issued_at: time(claims, "iat")?,
        })
    }
}

fn wrong_type(claim: &str, wanted: &str) -> JwtSvidError {
    JwtSvidError::Parse(format!("claim {claim} must be {wanted}"))
}

fn audience(claims: &Map<String, Value>) -> Result<Vec<String>, JwtSvidError> {
    let fault = || wrong_type("aud", "a text or an array of texts");
    match claims.get("aud") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(fault)).collect()
        }
        Some(_) => Err(fault()),
    }
}

/// A NumericDate: seconds since 1970, perhaps with a fraction.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<OffsetDateTime>, JwtSvidError> {
    let fault = || wrong_type(name, "a number of seconds since 1970");
    let number = match claims.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(fault()),
    };
    let seconds = match (number.as_i64(), number.as_f64()) {
        (Some(seconds), _) => seconds,
        // The cast saturates, and what is out of range fails below.
        (None, Some(seconds)) => seconds as i64,
        (None, None) => return Err(fault()),
    };
    let far = OffsetDateTime::from_unix_timestamp(seconds);
    // A date the clock cannot hold, or so near its end that the leeway would
    // overflow, is no date at all.
    let date = far.map_err(|_| fault())?;
    let leeway = Duration::days(2);
    if date.checked_add(leeway).is_none() || date.checked_sub(leeway).is_none() {
        return Err(fault());
    }
    Ok(Some(date))
}
