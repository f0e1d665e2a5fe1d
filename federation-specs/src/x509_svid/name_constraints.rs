//! Name constraints of CAs (RFC 5280 section 4.2.1.10; X509-SVID section 4.2).

use crate::certificate::{Bases, NameConstraints, SubjectAltNames};

/// Checks every name of one certificate below the CA; gives back the first
/// name that is outside.
pub(super) fn check(constraints: &NameConstraints, names: &SubjectAltNames) -> Result<(), String> {
    let NameConstraints { permitted, excluded } = constraints;
    let kind = |names: &[String], bases: fn(&Bases) -> &[String], matches: fn(&str, &str) -> bool| {
        for name in names {
            let within = |bases: &[String]| bases.iter().any(|base| matches(name, base));
            let (permitted, excluded) = (bases(permitted), bases(excluded));
            if within(excluded) || (!permitted.is_empty() && !within(permitted)) {
                return Err(name.clone());
            }
        }
        Ok(())
    };
    kind(&names.uris, |bases| &bases.uris, uri_matches)?;
    kind(&names.dns, |bases| &bases.dns, dns_matches)?;
    kind(&names.emails, |bases| &bases.emails, email_matches)?;
    for address in &names.ips {
        let within = |bases: &[Vec<u8>]| bases.iter().any(|base| ip_matches(address, base));
        if within(&excluded.ips) || (!permitted.ips.is_empty() && !within(&permitted.ips)) {
            return Err(format!("IP address {address:?}"));
        }
    }
    Ok(())
}

/// A base with a leading dot means every host below it, one without means
/// that host alone. A URI without host is outside everything but an excluded
/// base, which it is inside.
fn uri_matches(uri: &str, base: &str) -> bool {
    let Some((_, rest)) = uri.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    match base.strip_prefix('.') {
        Some(parent) => is_below(host, parent),
        None => !host.is_empty() && host.eq_ignore_ascii_case(base),
    }
}

/// A base means itself and every name below it; an empty base means all.
fn dns_matches(name: &str, base: &str) -> bool {
    let base = base.strip_prefix('.').unwrap_or(base);
    base.is_empty() || name.eq_ignore_ascii_case(base) || is_below(name, base)
}

/// A base is a mailbox, a host, or with a leading dot every host below it.
fn email_matches(mailbox: &str, base: &str) -> bool {
    let Some((local, host)) = mailbox.rsplit_once('@') else { return false };
    if let Some((base_local, base_host)) = base.rsplit_once('@') {
        return local == base_local && host.eq_ignore_ascii_case(base_host);
    }
    match base.strip_prefix('.') {
        Some(parent) => is_below(host, parent),
        None => host.eq_ignore_ascii_case(base),
    }
}

fn is_below(name: &str, parent: &str) -> bool {
    let Some(split) = name.len().checked_sub(parent.len()) else { return false };
    match (name.get(..split), name.get(split..)) {
        (Some(front), Some(tail)) => {
            front.len() > 1 && front.ends_with('.') && tail.eq_ignore_ascii_case(parent) && !parent.is_empty()
        }
        _ => false,
    }
}

/// The base is an address and a mask of the same length.
fn ip_matches(address: &[u8], base: &[u8]) -> bool {
    base.len() == 2 * address.len() && {
        let (network, mask) = base.split_at(address.len());
        address.iter().zip(network).zip(mask).all(|((a, n), m)| a & m == n & m)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_bases_name_a_host_or_everything_below_one() {
        assert!(uri_matches("spiffe://cloud.example/a", "cloud.example"));
        assert!(uri_matches("spiffe://cloud.example", "Cloud.Example"));
        assert!(!uri_matches("spiffe://x.cloud.example/a", "cloud.example"));
        assert!(uri_matches("spiffe://x.cloud.example/a", ".cloud.example"));
        assert!(!uri_matches("spiffe://cloud.example/a", ".cloud.example"));
        assert!(!uri_matches("spiffe://evilcloud.example/a", ".cloud.example"));
        assert!(!uri_matches("spiffe://other.example/cloud.example", "cloud.example"));
        assert!(!uri_matches("urn:a", "a"));
    }

    #[test]
    fn dns_email_and_ip_bases() {
        assert!(dns_matches("a.b", "b") && dns_matches("b", "b") && dns_matches("x", ""));
        assert!(!dns_matches("ab", "b"));
        assert!(email_matches("u@h.example", "h.example") && email_matches("u@x.h.example", ".h.example"));
        assert!(email_matches("u@h.example", "u@H.example") && !email_matches("U@h.example", "u@h.example"));
        assert!(ip_matches(&[10, 1, 2, 3], &[10, 0, 0, 0, 255, 0, 0, 0]));
        assert!(!ip_matches(&[11, 1, 2, 3], &[10, 0, 0, 0, 255, 0, 0, 0]));
    }

    #[test]
    fn excluded_wins_over_permitted() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let constraints = NameConstraints {
            permitted: Bases { uris: list(&[".example"]), ..Bases::default() },
            excluded: Bases { uris: list(&["bad.example"]), ..Bases::default() },
        };
        let names = |uri: &str| SubjectAltNames { uris: list(&[uri]), ..SubjectAltNames::default() };
        assert_eq!(check(&constraints, &names("spiffe://good.example/a")), Ok(()));
        assert_eq!(check(&constraints, &names("spiffe://bad.example/a")), Err("spiffe://bad.example/a".into()));
        assert_eq!(check(&constraints, &names("spiffe://other.test/a")), Err("spiffe://other.test/a".into()));
        assert_eq!(check(&constraints, &SubjectAltNames::default()), Ok(()));
    }
}
