//! Which addresses are asked. What a partner's URL, redirect or DNS leads to must not be this machine, this network or
//! a cloud's metadata service, unless an operator says so.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

/// What is special about an address that is not asked unless it is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressKind {
    /// This machine: 127.0.0.0/8, ::1.
    Loopback,
    /// 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918), fc00::/7 (RFC 4193), fec0::/10, 64:ff9b:1::/48 (RFC 8215).
    Private,
    /// 169.254.0.0/16, where clouds have their metadata service, and fe80::/10.
    LinkLocal,
    /// 100.64.0.0/10 (RFC 6598), shared by customers of one provider.
    Shared,
    /// No address: 0.0.0.0/8, ::.
    Unspecified,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
    /// In examples and benchmarks only: RFC 5737, RFC 3849, RFC 9637, RFC 2544, RFC 5180.
    Documentation,
    /// Everything else that is not globally reachable (IANA's special-purpose registries, RFC 6890).
    Reserved,
}

impl fmt::Display for AddressKind {
    /// With its article, for "leads to …, a private address".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback",
            Self::Private => "a private",
            Self::LinkLocal => "a link-local",
            Self::Shared => "a shared (carrier-grade NAT)",
            Self::Unspecified => "an unspecified",
            Self::Multicast => "a multicast",
            Self::Documentation => "a documentation",
            Self::Reserved => "a reserved",
        })
    }
}

/// Lets connections go to the public Internet and to the networks that are allowed besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressGuard {
    /// `None` lets everything pass.
    allowed: Option<Arc<[IpNet]>>,
}

impl AddressGuard {
    /// The public Internet and `allowed`.
    pub fn new(allowed: impl IntoIterator<Item = IpNet>) -> Self {
        Self { allowed: Some(allowed.into_iter().collect()) }
    }

    /// No guard, for URLs that nobody else has a say in.
    pub fn open() -> Self {
        Self { allowed: None }
    }

    /// Whether connections to `address` may be made.
    ///
    /// # Errors
    /// What is special about the address.
    pub fn check(&self, address: IpAddr) -> Result<(), AddressKind> {
        let Some(allowed) = &self.allowed else { return Ok(()) };
        let is_allowed = |address: IpAddr| allowed.iter().any(|network| network.contains(&address.to_canonical()));
        match kind(address) {
            None => Ok(()),
            Some(_) if is_allowed(address) => Ok(()),
            Some(_) if translated(address).is_some_and(|address| is_allowed(address.into())) => Ok(()),
            Some(kind) => Err(kind),
        }
    }
}

/// What is special about an address, `None` if it is a public one.
fn kind(address: IpAddr) -> Option<AddressKind> {
    match (address, translated(address)) {
        (IpAddr::V4(address), _) | (IpAddr::V6(_), Some(address)) => kind_v4(address),
        (IpAddr::V6(address), None) => kind_v6(address).or_else(|| kind_v4(tunnelled(address)?)),
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

/// The IPv4 address that an IPv6 address is another way to write.
fn translated(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    match address.segments() {
        // `::` and `::1` mean themselves.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // IPv4-mapped (RFC 4291 section 2.5.5.2), IPv4-compatible (2.5.5.1), translated (RFC 2765), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff | 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

/// The IPv4 address that packets to an IPv6 address are carried to.
fn tunnelled(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        // 6to4 (RFC 3056), ISATAP (RFC 5214).
        [0x2002, high, low, ..] | [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

fn kind_v4(address: Ipv4Addr) -> Option<AddressKind> {
    let kind = match address.octets() {
        [0, ..] => AddressKind::Unspecified,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => AddressKind::Private,
        [100, 64..=127, ..] => AddressKind::Shared,
        [127, ..] => AddressKind::Loopback,
        [169, 254, ..] => AddressKind::LinkLocal,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [198, 18..=19, ..] => AddressKind::Documentation,
        // IETF protocol assignments, the anycast address of 6to4 relays.
        [192, 0, 0, _] | [192, 88, 99, _] => AddressKind::Reserved,
        [224..=239, ..] => AddressKind::Multicast,
        [240..=255, ..] => AddressKind::Reserved,
        _ => return None,
    };
    Some(kind)
}

fn kind_v6(address: Ipv6Addr) -> Option<AddressKind> {
    let kind = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => AddressKind::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressKind::Loopback,
        [0x64, 0xff9b, 1, ..] | [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => AddressKind::Private,
        [0xfe80..=0xfebf, ..] => AddressKind::LinkLocal,
        [0xff00..=0xffff, ..] => AddressKind::Multicast,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] | [0x2001, 2, 0, ..] => AddressKind::Documentation,
        // IETF protocol assignments, Teredo among them.
        [0x2001, 0..=0x1ff, ..] => AddressKind::Reserved,
        // The only global unicast there is (RFC 4291 section 2.4, IANA).
        [0x2000..=0x3fff, ..] => return None,
        _ => AddressKind::Reserved,
    };
    Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> Option<AddressKind> {
        AddressGuard::new([]).check(address.parse().unwrap()).err()
    }

    #[test]
    fn what_is_not_public_is_refused_in_every_disguise() {
        use AddressKind::*;
        for (address, kind) in [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("10.0.0.1", Private),
            ("100.64.0.1", Shared),
            ("100.127.255.255", Shared),
            ("127.0.0.1", Loopback),
            ("127.255.0.1", Loopback),
            ("169.254.169.254", LinkLocal),
            ("172.16.0.1", Private),
            ("172.31.255.255", Private),
            ("192.0.0.8", Reserved),
            ("192.0.2.1", Documentation),
            ("192.88.99.1", Reserved),
            ("192.168.1.1", Private),
            ("198.19.0.1", Documentation),
            ("198.51.100.7", Documentation),
            ("203.0.113.7", Documentation),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("240.0.0.1", Reserved),
            ("255.255.255.255", Reserved),
            ("::", Unspecified),
            ("::1", Loopback),
            ("fc00::1", Private),
            ("fd00:ec2::254", Private),
            ("fe80::1", LinkLocal),
            ("fec0::1", Private),
            ("ff02::1", Multicast),
            ("2001:db8::1", Documentation),
            ("3fff::1", Documentation),
            ("2001:2::1", Documentation),
            ("2001::1", Reserved),
            ("2001:10::1", Reserved),
            ("100::1", Reserved),
            ("5f00::1", Reserved),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:169.254.169.254", LinkLocal),
            ("::10.0.0.1", Private),
            ("::ffff:0:10.0.0.1", Private),
            ("64:ff9b::10.0.0.1", Private),
            ("64:ff9b::169.254.169.254", LinkLocal),
            ("64:ff9b:1::8.8.8.8", Private),
            ("2002:7f00:1::1", Loopback),
            ("2002:a9fe:a9fe::1", LinkLocal),
            ("fe80::5efe:8.8.8.8", LinkLocal),
            ("2001:4860::5efe:10.0.0.1", Private),
            ("2001:4860::200:5efe:10.0.0.1", Private),
        ] {
            assert_eq!(refused(address), Some(kind), "{address}");
        }
    }

    #[test]
    fn the_internet_is_not_refused() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert_eq!(refused(address), None, "{address}");
        }
    }

    #[test]
    fn networks_can_be_allowed() {
        let networks = ["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"];
        let guard = AddressGuard::new(networks.iter().map(|network| network.parse().unwrap()));
        let passes = |address: &str| guard.check(address.parse().unwrap()).is_ok();
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "127.0.0.1", "fd12::1", "8.8.8.8"] {
            assert!(passes(address), "{address}");
        }
        for address in ["127.0.0.2", "192.168.0.1", "fc00::1", "::1", "169.254.169.254"] {
            assert!(!passes(address), "{address}");
        }
        assert!(AddressGuard::open().check("127.0.0.1".parse().unwrap()).is_ok());
    }
}
