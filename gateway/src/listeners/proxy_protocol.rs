//! The PROXY protocol, versions 1 and 2: the header a trusted proxy sends first, naming the client.
//!
//! From trusted networks the header is required: the protocol's text forbids guessing whether there is one. Exactly the
//! header is read and nothing behind it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::client::ClientAddress;

/// Longest header of version 1, line end included.
const MAX_V1_BYTES: usize = 107;

/// First bytes of version 2.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Longest header of version 2 behind its fixed part: addresses and whatever a proxy adds.
const MAX_V2_BYTES: usize = 4096;

/// Why a header is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyHeaderError {
    /// The connection failed or ended.
    #[error("the PROXY protocol header did not arrive: {0}")]
    Io(#[from] io::Error),
    /// Something else was sent.
    #[error(
        "no PROXY protocol header came from a network in proxy_protocol_trusted_cidrs; turn it on at the proxy, or \
         remove the network"
    )]
    Missing,
    /// A header that breaks the rules.
    #[error("the PROXY protocol header is malformed: {0}")]
    Malformed(&'static str),
}

/// Whose connection this is: the peer's, or, if it is in one of the `trusted` networks, that of the client its header names.
///
/// # Errors
/// When a trusted peer sends no acceptable header.
pub(crate) async fn client(
    stream: &mut (impl AsyncRead + Unpin),
    peer: IpAddr,
    trusted: &[IpNet],
) -> Result<ClientAddress, ProxyHeaderError> {
    let canonical = peer.to_canonical();
    if !trusted.iter().any(|network| network.contains(&canonical)) {
        return Ok(ClientAddress(peer));
    }
    Ok(ClientAddress(read(stream).await?.unwrap_or(peer)))
}

/// Reads the header. `None` when the proxy speaks for itself (health checks) or does not know the client's address.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, ProxyHeaderError> {
    // The shortest header of either version is longer.
    let mut start = [0; V2_SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == V2_SIGNATURE {
        let mut fixed = [0; 4];
        stream.read_exact(&mut fixed).await?;
        let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if length > MAX_V2_BYTES {
            return Err(ProxyHeaderError::Malformed("it is too long"));
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        return version_2(fixed[0], fixed[1], &rest);
    }
    if !start.starts_with(b"PROXY ") {
        return Err(ProxyHeaderError::Missing);
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_V1_BYTES {
            return Err(ProxyHeaderError::Malformed("its line does not end"));
        }
        line.push(stream.read_u8().await?);
    }
    version_1(&line[..line.len() - 2])
}

fn version_1(line: &[u8]) -> Result<Option<IpAddr>, ProxyHeaderError> {
    let bad = ProxyHeaderError::Malformed;
    let text = std::str::from_utf8(line).map_err(|_| bad("it is not text"))?;
    let mut words = text.split(' ');
    let _proxy = words.next();
    let family = words.next().ok_or(bad("it names no protocol"))?;
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let mut word = || words.next().ok_or(bad("a field is missing"));
    let (source, destination, source_port, destination_port) = (word()?, word()?, word()?, word()?);
    if words.next().is_some() {
        return Err(bad("it has too many fields"));
    }
    for port in [source_port, destination_port] {
        let canonical = port.parse::<u16>().is_ok_and(|number| number.to_string() == port);
        if !canonical {
            return Err(bad("a port is no number from 0 to 65535"));
        }
    }
    let address = |text: &str| -> Result<IpAddr, ProxyHeaderError> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::from).map_err(|_| bad("an address is no IPv4 address")),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::from).map_err(|_| bad("an address is no IPv6 address")),
            _ => Err(bad("its protocol is neither TCP4, TCP6 nor UNKNOWN")),
        }
    };
    address(destination)?;
    address(source).map(Some)
}

fn version_2(version_and_command: u8, family: u8, rest: &[u8]) -> Result<Option<IpAddr>, ProxyHeaderError> {
    let bad = ProxyHeaderError::Malformed;
    match version_and_command {
        // LOCAL: the proxy itself; whatever follows is to be ignored.
        0x20 => return Ok(None),
        0x21 => {}
        other if other >> 4 == 2 => return Err(bad("its command is neither LOCAL nor PROXY")),
        _ => return Err(bad("its version is not 2")),
    }
    match family {
        // Unspecified protocol: the address is unknown.
        0x00 => Ok(None),
        0x11 => {
            let source: [u8; 4] =
                rest.get(..12).and_then(|all| all.first_chunk().copied()).ok_or(bad("it is too short"))?;
            Ok(Some(Ipv4Addr::from(source).into()))
        }
        0x21 => {
            let source: [u8; 16] =
                rest.get(..36).and_then(|all| all.first_chunk().copied()).ok_or(bad("it is too short"))?;
            Ok(Some(Ipv6Addr::from(source).into()))
        }
        _ => Err(bad("its protocol is not TCP over IPv4 or IPv6")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(bytes: &[u8]) -> (Result<Option<IpAddr>, String>, Vec<u8>) {
        let mut rest = bytes;
        let read = read(&mut rest);
        // Reading from memory never waits.
        let outcome = futures_now(read).map_err(|error| error.to_string());
        (outcome, rest.to_vec())
    }

    fn futures_now<T>(future: impl Future<Output = T>) -> T {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("reading from memory waited"),
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[command, family], &length, body].concat()
    }

    #[test]
    fn headers_name_the_client_and_nothing_behind_them_is_read() {
        let ip = |text: &str| Some(text.parse().unwrap());
        let v4 = [192, 0, 2, 9, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb];
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 7;
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.9 10.0.0.1 56324 443\r\n".to_vec(), ip("192.0.2.9")),
            (b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n".to_vec(), ip("2001:db8::7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:f::1 whatever 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &v4), ip("192.0.2.9")),
            // With more behind the addresses.
            (v2(0x21, 0x11, &[&v4[..], &[4, 0, 1, 0]].concat()), ip("192.0.2.9")),
            (v2(0x21, 0x21, &v6), ip("2001:db8::7")),
            (v2(0x20, 0x11, &v4), None),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x21, 0x00, &[]), None),
        ] {
            let (outcome, rest) = read_all(&[&header[..], b"\x16\x03\x01"].concat());
            assert_eq!(outcome, Ok(expected), "{header:?}");
            assert_eq!(rest, b"\x16\x03\x01", "{header:?}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        for header in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00",
            b"PROXY TCP4 192.0.2.9 10.0.0.1 56324\r\n",
            b"PROXY TCP4 192.0.2.9 10.0.0.1 56324 443 1\r\n",
            b"PROXY TCP4 192.0.2.9 10.0.0.1 56324 443\n",
            b"PROXY TCP4 192.0.2.9  10.0.0.1 56324 443\r\n",
            b"PROXY TCP4 192.0.2.9 10.0.0.1 056324 443\r\n",
            b"PROXY TCP4 192.0.2.9 10.0.0.1 65536 443\r\n",
            b"PROXY TCP4 192.0.2.9 10.0.0.1 +1 443\r\n",
            b"PROXY TCP4 2001:db8::7 10.0.0.1 1 443\r\n",
            b"PROXY TCP6 192.0.2.9 ::1 1 443\r\n",
            b"PROXY TCP4 192.0.2.9 x 1 443\r\n",
            b"PROXY UDP4 192.0.2.9 10.0.0.1 1 443\r\n",
            b"proxy TCP4 192.0.2.9 10.0.0.1 1 443\r\n",
            b"PROXY \xff\xfe\xfd 192.0.2.9\r\n",
            &long,
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x12, &[0; 12]),
            &v2(0x21, 0x31, &[0; 216]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[0; 5000]),
            b"",
            b"PROXY",
        ] {
            let (outcome, _) = read_all(header);
            assert!(outcome.is_err(), "{:?}: {outcome:?}", String::from_utf8_lossy(header));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_without_end(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
            let (_, rest) = read_all(&bytes);
            prop_assert!(bytes.len() - rest.len() <= 16 + MAX_V2_BYTES);
        }

        #[test]
        fn version_1_gives_back_what_was_written(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), a in any::<u16>(), b in any::<u16>()) {
            let (v4, v6) = (Ipv4Addr::from(v4), Ipv6Addr::from(v6));
            let (outcome, rest) = read_all(format!("PROXY TCP4 {v4} 127.0.0.1 {a} {b}\r\nx").as_bytes());
            prop_assert_eq!((outcome, rest), (Ok(Some(v4.into())), b"x".to_vec()));
            let (outcome, rest) = read_all(format!("PROXY TCP6 {v6} ::1 {a} {b}\r\nx").as_bytes());
            prop_assert_eq!((outcome, rest), (Ok(Some(v6.into())), b"x".to_vec()));
        }

        #[test]
        fn mangled_headers_never_name_another_client(index in 0_usize..39, byte in any::<u8>()) {
            let mut header = b"PROXY TCP4 192.0.2.9 10.0.0.1 5324 443\r\n".to_vec();
            header[index] = byte;
            if let (Ok(Some(address)), _) = read_all(&header) {
                // Only a change within the address itself may change it.
                prop_assert!((11..20).contains(&index) || address == "192.0.2.9".parse::<IpAddr>().unwrap());
            }
        }
    }
}
