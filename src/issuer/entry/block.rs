//! A registration entry as text.

use std::fmt::Write as _;

use federation_specs::proto::types::Entry;

use crate::identifiers::id_text;
use crate::notation;

/// The entry's lines and the empty line after them.
pub(super) fn block(entry: &Entry) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{label:<24}: {value}");
    };
    line("Entry ID", if entry.id.is_empty() { "(none)" } else { &entry.id });
    line("SPIFFE ID", &id_text(entry.spiffe_id.as_ref()));
    line("Parent ID", &id_text(entry.parent_id.as_ref()));
    line("Revision", &entry.revision_number.to_string());
    if entry.downstream {
        line("Downstream", "true");
    }
    line("X509-SVID TTL", &ttl(entry.x509_svid_ttl));
    line("JWT-SVID TTL", &ttl(entry.jwt_svid_ttl));
    if entry.expires_at != 0 {
        line("Expiration time", &notation::time_of(entry.expires_at));
    }
    for selector in &entry.selectors {
        line("Selector", &format!("{}:{}", selector.r#type, selector.value));
    }
    for trust_domain in &entry.federates_with {
        line("FederatesWith", trust_domain);
    }
    for name in &entry.dns_names {
        line("DNS name", name);
    }
    if entry.admin {
        line("Admin", "true");
    }
    if entry.store_svid {
        line("StoreSvid", "true");
    }
    if !entry.hint.is_empty() {
        line("Hint", &entry.hint);
    }
    if let Some(attributes) = &entry.additional_attributes {
        if attributes.disable_x509_svid_prefetch {
            line("DisableX509SvidPrefetch", "true");
        }
        if attributes.jwt_svid_include_jti {
            line("JwtSvidIncludeJti", "true");
        }
    }
    text.push('\n');
    text
}

fn ttl(seconds: i32) -> String {
    if seconds == 0 { "default".to_owned() } else { seconds.to_string() }
}
