//! PEM as files and pretty output hold it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const LINE: usize = 64;

/// One PEM block, 64 characters a line, with its final newline.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        // INVARIANT: base64 is ASCII, so every byte index is a character boundary.
        let (line, next) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = next;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// Certificates one after the other.
pub(crate) fn certificates<'a>(ders: impl IntoIterator<Item = &'a [u8]>) -> String {
    ders.into_iter().map(|der| encode("CERTIFICATE", der)).collect()
}

/// An unencrypted private key.
pub(crate) fn private_key(pkcs8: &[u8]) -> String {
    encode("PRIVATE KEY", pkcs8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_64_wide() {
        let text = encode("CERTIFICATE", &[7; 100]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "-----BEGIN CERTIFICATE-----");
        assert_eq!(lines[1].len(), 64);
        assert_eq!(lines[2].len(), 64);
        assert_eq!(lines[3].len(), 136 - 128);
        assert_eq!(lines[4], "-----END CERTIFICATE-----");
        assert!(text.ends_with("-----\n"));
    }
}
