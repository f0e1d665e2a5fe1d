//! AWS Signature Version 4, verified as the service does.

use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};
use http::HeaderMap;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Who signs, where.
pub struct Signer<'a> {
    pub key_id: &'a str,
    pub secret: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

/// Checks the signature of a request without query.
pub fn verify(signer: &Signer<'_>, method: &str, path: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), String> {
    let header =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim).unwrap_or_default();
    let authorization = header("authorization").strip_prefix("AWS4-HMAC-SHA256 ").ok_or("not signed")?;
    let part = |name: &str| {
        let found = authorization.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        found.ok_or_else(|| format!("no {name}"))
    };
    let time = header("x-amz-date");
    let day = time.get(..8).ok_or("no date")?;
    let scope = format!("{day}/{}/{}/aws4_request", signer.region, signer.service);
    if part("Credential")? != format!("{}/{scope}", signer.key_id) {
        return Err("another credential or scope".to_owned());
    }
    if header("x-amz-content-sha256") != sha256(body) {
        return Err("another body".to_owned());
    }
    let signed = part("SignedHeaders")?;
    let names: Vec<&str> = signed.split(';').collect();
    if !["host", "x-amz-content-sha256", "x-amz-date"].iter().all(|name| names.contains(name)) {
        return Err(format!("only {signed} are signed"));
    }
    let lines: String = names.iter().map(|name| format!("{name}:{}\n", header(name))).collect();
    let canonical = format!("{method}\n{path}\n\n{lines}\n{signed}\n{}", sha256(body));
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let mut key = mac(format!("AWS4{}", signer.secret).as_bytes(), day);
    for text in [signer.region, signer.service, "aws4_request"] {
        key = mac(&key, text);
    }
    match hex(&mac(&key, &to_sign)) == part("Signature")? {
        true => Ok(()),
        false => Err("another signature".to_owned()),
    }
}
