//! Subject names of the certificates the issuer signs.
//!
//! A subject is kept as its attributes and written in one fixed order (C, O, OU, L, ST, street, postal code, CN,
//! serialNumber, x500UniqueIdentifier), one set a type, so that the same attributes always give the same bytes: a chain
//! is only found when issuer and subject names are equal.

use aws_lc_rs::digest;
use federation_specs::id::SpiffeId;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Any, ObjectIdentifier, PrintableStringRef, SetOfVec, Utf8StringRef};
use x509_cert::der::{self, Decode, Encode, Tag, Tagged};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};

const COUNTRY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.6");
const ORGANIZATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.10");
const ORGANIZATIONAL_UNIT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");
const LOCALITY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.7");
const PROVINCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.8");
const STREET: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.9");
const POSTAL_CODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.17");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const SERIAL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.5");
const UNIQUE_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.45");

/// The order attributes are written in.
const ORDER: [ObjectIdentifier; 10] = [
    COUNTRY,
    ORGANIZATION,
    ORGANIZATIONAL_UNIT,
    LOCALITY,
    PROVINCE,
    STREET,
    POSTAL_CODE,
    COMMON_NAME,
    SERIAL_NUMBER,
    UNIQUE_IDENTIFIER,
];

/// Most attributes of a subject taken from a request.
const MAX_ATTRIBUTES: usize = 64;

/// A subject that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NameError {
    /// Not a distinguished name in DER, or a value that is no text.
    #[error("subject is not a readable distinguished name: {0}")]
    Unreadable(#[from] der::Error),
    /// More attributes than [`MAX_ATTRIBUTES`].
    #[error("subject has more than {MAX_ATTRIBUTES} attributes")]
    TooMany,
}

/// Attributes of a subject, by type, in [`ORDER`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    values: [Vec<String>; ORDER.len()],
}

impl Subject {
    /// Subject of every SVID that does not bring its own: C=US, O=SPIRE.
    pub(crate) fn svid() -> Self {
        Self::default().with(COUNTRY, ["US"]).with(ORGANIZATION, ["SPIRE"])
    }

    /// Subject of a CA without its serialNumber attribute.
    pub(crate) fn ca(subject: &super::CaSubject) -> Self {
        let common_name = (!subject.common_name.is_empty()).then_some(subject.common_name.as_str());
        Self::default()
            .with(COUNTRY, subject.country.iter().map(String::as_str))
            .with(ORGANIZATION, subject.organization.iter().map(String::as_str))
            .with(COMMON_NAME, common_name)
    }

    /// The known attributes of an encoded name; others are left out.
    pub(crate) fn from_der(encoded: &[u8]) -> Result<Self, NameError> {
        let name = Name::from_der(encoded)?;
        let mut subject = Self::default();
        for (count, attribute) in name.iter().enumerate() {
            if count >= MAX_ATTRIBUTES {
                return Err(NameError::TooMany);
            }
            if let Some(place) = ORDER.iter().position(|oid| *oid == attribute.oid) {
                subject.values[place].push(text(&attribute.value)?);
            }
        }
        // Only the issuer's own composer writes this one.
        subject.set(UNIQUE_IDENTIFIER, []);
        Ok(subject)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.iter().all(Vec::is_empty)
    }

    /// With one common name in place of any there was.
    pub(crate) fn with_common_name(self, name: &str) -> Self {
        self.with(COMMON_NAME, [name])
    }

    /// With one organizational unit in place of any there was.
    pub(crate) fn with_organizational_unit(self, unit: &str) -> Self {
        self.with(ORGANIZATIONAL_UNIT, [unit])
    }

    /// With the serialNumber attribute.
    pub(crate) fn with_serial_number(self, serial: &str) -> Self {
        self.with(SERIAL_NUMBER, [serial])
    }

    /// With the x500UniqueIdentifier of a workload: the first half of the SHA-256 of its SPIFFE ID, in lowercase hex.
    pub(crate) fn with_unique_identifier_of(self, id: &SpiffeId) -> Self {
        let hash = digest::digest(&digest::SHA256, id.to_string().as_bytes());
        let half: String = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.with(UNIQUE_IDENTIFIER, [half.as_str()])
    }

    /// The name to put into a certificate.
    pub(crate) fn to_name(&self) -> Result<Name, NameError> {
        let mut sequence = RdnSequence::default();
        for (oid, values) in ORDER.iter().zip(&self.values).filter(|(_, values)| !values.is_empty()) {
            let mut set = SetOfVec::new();
            for value in values {
                set.insert(AttributeTypeAndValue { oid: *oid, value: directory_string(value)? })?;
            }
            sequence.push(RelativeDistinguishedName::from(set));
        }
        Ok(Name::from_der(&sequence.to_der()?)?)
    }

    fn with<'a>(mut self, oid: ObjectIdentifier, values: impl IntoIterator<Item = &'a str>) -> Self {
        self.set(oid, values);
        self
    }

    fn set<'a>(&mut self, oid: ObjectIdentifier, values: impl IntoIterator<Item = &'a str>) {
        if let Some(place) = ORDER.iter().position(|known| *known == oid) {
            let mut kept: Vec<String> = Vec::new();
            for value in values {
                if !kept.iter().any(|k| k == value) {
                    kept.push(value.to_owned());
                }
            }
            self.values[place] = kept;
        }
    }
}

fn text(value: &Any) -> Result<String, NameError> {
    let text = match value.tag() {
        Tag::PrintableString | Tag::Utf8String | Tag::Ia5String => std::str::from_utf8(value.value()).ok(),
        _ => None,
    };
    text.map(str::to_owned).ok_or_else(|| NameError::Unreadable(Tag::Utf8String.value_error().into()))
}

fn directory_string(value: &str) -> Result<Any, der::Error> {
    match PrintableStringRef::new(value) {
        Ok(printable) => Any::encode_from(&printable),
        Err(_) => Any::encode_from(&Utf8StringRef::new(value)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::CaSubject;

    fn shown(subject: &Subject) -> String {
        subject.to_name().unwrap().to_string()
    }

    #[test]
    fn attributes_are_written_in_one_order() {
        // RFC 4514 text is in reverse order.
        assert_eq!(shown(&Subject::svid()), "O=SPIRE,C=US");
        assert_eq!(shown(&Subject::svid().with_common_name("db.example")), "CN=db.example,O=SPIRE,C=US");
        let ca = Subject::ca(&CaSubject::default()).with_serial_number("17");
        assert_eq!(shown(&ca.clone().with_organizational_unit("DOWNSTREAM-1")).matches("OU=DOWNSTREAM-1").count(), 1);
        let again = Subject::from_der(&ca.to_name().unwrap().to_der().unwrap()).unwrap();
        assert_eq!(again, ca);
    }

    #[test]
    fn printable_where_the_characters_allow() {
        for (value, tag) in
            [("a.example", Tag::PrintableString), ("*.example", Tag::Utf8String), ("ä", Tag::Utf8String)]
        {
            assert_eq!(directory_string(value).unwrap().tag(), tag, "{value}");
        }
    }

    #[test]
    fn the_first_dns_name_replaces_the_common_name_of_a_request() {
        let request = Name::from_der(
            &Subject::default()
                .with(ORGANIZATION, ["MyOrg"])
                .with(COMMON_NAME, ["my cn"])
                .to_name()
                .unwrap()
                .to_der()
                .unwrap(),
        )
        .unwrap();
        let subject = Subject::from_der(&request.to_der().unwrap()).unwrap();
        assert_eq!(shown(&subject), "CN=my cn,O=MyOrg");
        assert_eq!(shown(&subject.with_common_name("d.example")), "CN=d.example,O=MyOrg");
    }

    #[test]
    fn a_request_cannot_bring_a_unique_identifier() {
        let id: SpiffeId = "spiffe://cloud.example/w".parse().unwrap();
        let own = Subject::svid().with_unique_identifier_of(&id);
        assert_ne!(own, Subject::svid());
        assert_eq!(Subject::from_der(&own.to_name().unwrap().to_der().unwrap()).unwrap(), Subject::svid());
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert!(Subject::from_der(b"\x30\x03abc").is_err());
        assert!(Subject::from_der(b"\x30\x00").unwrap().is_empty());
    }
}
