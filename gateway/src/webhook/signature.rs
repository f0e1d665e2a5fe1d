//! Signatures of webhooks, as the Standard Webhooks specification 1.0.0 has them: HMAC-SHA256 over ID, time of the
//! attempt and body. While a secret is rotated there are several, and a signature of each is sent.

use std::{fmt, path::Path};

use aws_lc_rs::hmac;
use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use time::OffsetDateTime;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

/// Begins every secret.
pub const SECRET_PREFIX: &str = "whsec_";

/// Allowed length of a secret in bytes, before base64 (Standard Webhooks, signature scheme: 192 to 512 bits).
pub const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Most secrets in one file: one, and those of a rotation.
pub const MAX_SECRETS: usize = 4;

/// Largest file of secrets.
const MAX_FILE_BYTES: u64 = 4096;

/// Base64 that is written with padding and read without it as well, as other implementations do.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Why there is nothing to sign with. The secret itself is in none of the messages.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The file cannot be read.
    #[error("secret_file {path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The file is no list of secrets.
    #[error("secret_file {path} cannot be used: {problem}")]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong and what to do about it.
        problem: String,
    },
}

/// What one webhook is signed with.
pub struct Secrets(Vec<hmac::Key>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Reads a file with one `whsec_…` a line; empty lines and those that begin with `#` do not count.
    ///
    /// # Errors
    /// [`SecretError`] naming the file.
    pub async fn read(path: &Path) -> Result<Self, SecretError> {
        let shown = || path.display().to_string();
        let unreadable = |error: std::io::Error| SecretError::Unreadable { path: shown(), reason: error.to_string() };
        let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).await.map_err(unreadable)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            let problem = format!("it is larger than {MAX_FILE_BYTES} bytes; is it the right file?");
            return Err(SecretError::Unusable { path: shown(), problem });
        }
        Self::parse(&text).map_err(|problem| SecretError::Unusable { path: shown(), problem })
    }

    /// # Errors
    /// What is wrong, without the secret.
    fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).enumerate();
        let mut keys = Vec::new();
        for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let number = index + 1;
            let encoded = line.strip_prefix(SECRET_PREFIX).ok_or_else(|| {
                format!("line {number} does not begin with `{SECRET_PREFIX}`; write `{SECRET_PREFIX}` and base64")
            })?;
            let secret = BASE64.decode(encoded).map(Zeroizing::new);
            let secret = secret.map_err(|_| format!("line {number} is not base64 behind `{SECRET_PREFIX}`"))?;
            if !SECRET_BYTES.contains(&secret.len()) {
                let (least, most) = (SECRET_BYTES.start(), SECRET_BYTES.end());
                return Err(format!("the secret in line {number} must have {least} to {most} bytes before base64"));
            }
            keys.push(hmac::Key::new(hmac::HMAC_SHA256, &secret));
        }
        match keys.len() {
            0 => Err(format!("it has no secret; write one `{SECRET_PREFIX}…` a line")),
            1..=MAX_SECRETS => Ok(Self(keys)),
            _ => Err(format!("it has more than {MAX_SECRETS} secrets; remove those no receiver uses any more")),
        }
    }

    /// The headers of one attempt to deliver `body` under `id`.
    pub fn headers(&self, id: &str, at: OffsetDateTime, body: &[u8]) -> HeaderMap {
        let timestamp = at.unix_timestamp().to_string();
        let content = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
        let signatures = self.0.iter().map(|key| format!("v1,{}", BASE64.encode(hmac::sign(key, &content))));
        let signatures: Vec<String> = signatures.collect();
        let mut headers = HeaderMap::new();
        for (name, value) in [(ID, id), (TIMESTAMP, &timestamp), (SIGNATURE, &signatures.join(" "))] {
            // Digits, base64 and IDs made here are always good values.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn signs_as_the_reference_implementations_do() {
        // The example every Standard Webhooks library tests with.
        let secrets = Secrets::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let at = OffsetDateTime::from_unix_timestamp(1_614_265_330).unwrap();
        let headers = secrets.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", at, b"{\"test\": 2432232314}");
        assert_eq!(headers["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_secret_of_a_rotation_signs() {
        let text = "# new\nwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n\nwhsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";
        let secrets = Secrets::parse(text).unwrap();
        let headers = secrets.headers("evt_1", datetime!(2026-11-22 12:00 UTC), b"{}");
        let signatures: Vec<&str> = headers["webhook-signature"].to_str().unwrap().split(' ').collect();
        assert_eq!(signatures.len(), 2);
        assert!(signatures.iter().all(|signature| signature.starts_with("v1,")) && signatures[0] != signatures[1]);
        assert_eq!(format!("{secrets:?}"), "Secrets(2)");
    }

    #[tokio::test]
    async fn what_is_no_secret_is_refused_without_showing_it() {
        let short = format!("whsec_{}", BASE64.encode([7; 23]));
        let long = format!("whsec_{}", BASE64.encode([7; 65]));
        let many = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n".repeat(MAX_SECRETS + 1);
        let cases = [
            ("", "no secret"),
            ("hunter2hunter2hunter2hunter2", "does not begin with"),
            ("whsec_hunter2!", "not base64"),
            (&short, "24 to 64 bytes"),
            (&long, "24 to 64 bytes"),
            (&many, "more than 4"),
        ];
        for (text, expected) in cases {
            let problem = Secrets::parse(text).unwrap_err();
            assert!(problem.contains(expected) && !problem.contains("hunter2"), "{problem}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(Secrets::read(&path).await.unwrap_err().to_string().contains("cannot be read"));
        std::fs::write(&path, vec![b'#'; MAX_FILE_BYTES as usize + 1]).unwrap();
        assert!(Secrets::read(&path).await.unwrap_err().to_string().contains("larger than 4096"));
    }
}
