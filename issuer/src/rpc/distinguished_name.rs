//! Distinguished names as text, most specific attribute first (RFC 4514).

use x509_parser::{
    prelude::FromDer,
    x509::{AttributeTypeAndValue, X509Name},
};

/// Names of the attributes that have one.
const SHORT_NAMES: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.17", "POSTALCODE"),
];

/// Text of a DER name; empty when it cannot be read.
pub(super) fn to_text(der: &[u8]) -> String {
    let Ok((_, name)) = X509Name::from_der(der) else { return String::new() };
    let parts: Vec<String> =
        name.iter_rdn().map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let name = SHORT_NAMES.iter().find(|(known, _)| *known == oid).map(|(_, name)| *name);
    match (name, attribute.as_str()) {
        (Some(name), Ok(value)) => format!("{name}={}", escaped(value)),
        _ => {
            let value: String = attribute.as_slice().iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{oid}=#{value}")
        }
    }
}

fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (index, character) in value.chars().enumerate() {
        let needed = matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (index == 0 && matches!(character, '#' | ' '))
            || (index == last && character == ' ');
        if needed {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_reversed_and_escaped() {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CountryName, "US");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "SPIRE, Inc");
        let serial = rcgen::DnType::CustomDnType(vec![2, 5, 4, 5]);
        params.distinguished_name.push(serial, "42");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let parsed = federation_specs::certificate::Certificate::from_der(certificate.der()).unwrap();
        assert_eq!(to_text(parsed.subject_der()), "SERIALNUMBER=42,O=SPIRE\\, Inc,C=US");
        assert_eq!(escaped(" #a+b "), "\\ #a\\+b\\ ");
        assert_eq!(to_text(b"nonsense"), "");
    }
}
