//! Who a client is to the limits, and how many connections each has.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// The address a connection comes from: the socket's, or the one a trusted proxy named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// What counts as one client: an IPv4 address, or an IPv6 /64 network, of which one machine may use every address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientKey(u128);

/// Length of the network part of an IPv6 address that is one client.
const IPV6_PREFIX: u32 = 64;

impl From<ClientAddress> for ClientKey {
    fn from(ClientAddress(address): ClientAddress) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().to_bits()),
            IpAddr::V6(address) => Self(address.to_bits() & (u128::MAX << (128 - IPV6_PREFIX))),
        }
    }
}

/// The open connections of each client. Never holds more clients than there are connections.
#[derive(Debug)]
pub(super) struct ConnectionsPerClient {
    max: usize,
    open: Mutex<HashMap<ClientKey, usize>>,
}

/// One open connection; counted until dropped.
#[derive(Debug)]
pub(super) struct Counted {
    client: ClientKey,
    table: Arc<ConnectionsPerClient>,
}

impl ConnectionsPerClient {
    /// At most `max` for each.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, open: Mutex::default() })
    }

    /// Counts one more; `None` if the client has as many as it may.
    pub(super) fn open(self: &Arc<Self>, client: ClientKey) -> Option<Counted> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(client).or_insert(0);
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Counted { client, table: Arc::clone(self) })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.table.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str) -> ClientKey {
        ClientAddress(address.parse().unwrap()).into()
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    }

    #[test]
    fn connections_are_counted_and_given_back() {
        let table = ConnectionsPerClient::new(2);
        let (a, b) = (key("192.0.2.1"), key("192.0.2.2"));
        let first = table.open(a).unwrap();
        let _second = table.open(a).unwrap();
        assert!(table.open(a).is_none());
        let other = table.open(b).unwrap();
        drop(first);
        assert!(table.open(a).is_some());
        drop(other);
        assert_eq!(table.open.lock().unwrap().len(), 1, "who has none is forgotten");
    }
}
