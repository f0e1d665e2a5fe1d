//! Building and checking a certification path (RFC 5280 section 6) with
//! bounded work. Written here because the usual library refuses every URI
//! name under a URI name constraint, which X509-SVID section 4.2 allows, does
//! not look at the key usage of CAs, and does not look at the validity of
//! trust anchors.

use time::OffsetDateTime;

use super::{X509SvidError, name_constraints};
use crate::certificate::Certificate;

/// Most certificates a peer may send.
pub const MAX_CHAIN_CERTIFICATES: usize = 16;
/// Most CAs between a leaf and an authority.
pub const MAX_INTERMEDIATES: usize = 8;
/// Most signatures checked while looking for a path.
pub const MAX_SIGNATURE_CHECKS: usize = 100;

/// Looks for a path from `leaf` over some of `intermediates` to one of
/// `authorities` that keeps every rule at `now`, and gives back the CAs on it,
/// the leaf's issuer first and the authority last. Extended key usages are not
/// looked at.
///
/// # Errors
/// [`X509SvidError`]: the fault of the path that came closest.
pub fn verify_path<'c>(
    leaf: &'c Certificate,
    intermediates: &'c [Certificate],
    authorities: &[&'c Certificate],
    now: OffsetDateTime,
) -> Result<Vec<&'c Certificate>, X509SvidError> {
    check_alone(leaf, now)?;
    let mut search =
        Search { intermediates, authorities, now, checks_left: MAX_SIGNATURE_CHECKS, path: vec![leaf], fault: None };
    if search.extend() {
        return Ok(search.path.split_off(1));
    }
    Err(search.fault.unwrap_or(X509SvidError::UnknownAuthority))
}

struct Search<'c, 's> {
    intermediates: &'c [Certificate],
    authorities: &'s [&'c Certificate],
    now: OffsetDateTime,
    checks_left: usize,
    /// The leaf, then the CAs found so far, each the issuer of the one before.
    path: Vec<&'c Certificate>,
    /// The fault of the path that came furthest, and among equals the first.
    fault: Option<X509SvidError>,
}

impl<'c> Search<'c, '_> {
    /// Extends the path to an authority; on failure it is as before.
    fn extend(&mut self) -> bool {
        let Some(&last) = self.path.last() else { return false };
        for authority in candidates(last, self.authorities.iter().copied()) {
            if self.accept(last, authority) {
                return true;
            }
        }
        for intermediate in candidates(last, self.intermediates.iter()) {
            if self.path.iter().any(|held| is_same_ca(held, intermediate)) {
                continue;
            }
            if self.path.len() > MAX_INTERMEDIATES {
                self.fault.get_or_insert(X509SvidError::TooManyIntermediates);
                return false;
            }
            if self.accept(last, intermediate) {
                if self.extend() {
                    return true;
                }
                self.path.pop();
            }
            if self.checks_left == 0 {
                return false;
            }
        }
        false
    }

    /// Puts `issuer` on the path if it may stand there.
    fn accept(&mut self, subject: &Certificate, issuer: &'c Certificate) -> bool {
        match self.check(subject, issuer) {
            Ok(()) => {
                self.path.push(issuer);
                true
            }
            Err(fault) => {
                self.fault.get_or_insert(fault);
                false
            }
        }
    }

    fn check(&mut self, subject: &Certificate, issuer: &Certificate) -> Result<(), X509SvidError> {
        check_alone(issuer, self.now)?;
        if !issuer.may_sign_certificates() {
            return Err(X509SvidError::IssuerNotCa);
        }
        // The path holds the leaf and the CAs below this one.
        let cas_below = self.path.len() - 1;
        let allowed = issuer.basic_constraints().and_then(|constraints| constraints.path_length);
        if allowed.is_some_and(|allowed| cas_below > allowed as usize) {
            return Err(X509SvidError::PathLength);
        }
        if let Some(constraints) = issuer.name_constraints() {
            for certificate in &self.path {
                name_constraints::check(constraints, certificate.names()).map_err(X509SvidError::NameConstraint)?;
            }
        }
        self.checks_left = self.checks_left.checked_sub(1).ok_or(X509SvidError::TooMuchWork)?;
        let signed = issuer.public_key().is_ok_and(|key| subject.is_signed_by(key));
        if signed { Ok(()) } else { Err(X509SvidError::BadSignature) }
    }
}

/// Those whose subject is the issuer of `certificate`, the ones with the right
/// key identifier first and those with a wrong one last.
fn candidates<'c>(certificate: &Certificate, all: impl Iterator<Item = &'c Certificate>) -> Vec<&'c Certificate> {
    let wanted = certificate.authority_key_id();
    let mut found: Vec<&Certificate> =
        all.filter(|candidate| candidate.subject_der() == certificate.issuer_der()).collect();
    found.sort_by_key(|candidate| match (wanted, candidate.subject_key_id()) {
        (Some(wanted), Some(held)) if wanted == held => 0,
        (Some(_), Some(_)) => 2,
        _ => 1,
    });
    found
}

/// The same name and key, perhaps in another certificate: passing it twice
/// cannot help (RFC 4158 section 5.2).
fn is_same_ca(held: &Certificate, candidate: &Certificate) -> bool {
    held.subject_der() == candidate.subject_der()
        && matches!((held.public_key(), candidate.public_key()), (Ok(a), Ok(b)) if a == b)
}

/// What holds for every certificate of a path by itself.
fn check_alone(certificate: &Certificate, now: OffsetDateTime) -> Result<(), X509SvidError> {
    if now < certificate.not_before() {
        return Err(X509SvidError::NotYetValid(certificate.not_before()));
    }
    if now > certificate.not_after() {
        return Err(X509SvidError::Expired(certificate.not_after()));
    }
    if let Some(oid) = certificate.unknown_critical() {
        return Err(X509SvidError::UnknownCriticalExtension(oid.to_owned()));
    }
    Ok(())
}
