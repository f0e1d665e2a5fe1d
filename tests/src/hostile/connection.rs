//! Misbehaving before there is TLS: on the TCP connection and in the first bytes of the handshake.

use std::{future::pending, time::Duration};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

/// What happens to a connection. None gets as far as a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Connection {
    /// Nothing listens on the port any more.
    IsRefused,
    /// The host name of the URL cannot be looked up.
    HasNoAddress,
    /// Accepted, and closed at once.
    IsClosedAtOnce,
    /// Closed after the first message of the handshake was read.
    IsClosedInHandshake,
    /// Reset after the first message of the handshake was read.
    IsReset,
    /// Accepted, and never a byte sent.
    StaysSilent,
    /// The handshake comes at one byte a second.
    DripsHandshake,
    /// The port speaks HTTP without TLS.
    IsPlainHttp,
    /// The port belongs to another service.
    IsSsh,
    /// Random bytes.
    IsGarbage,
    /// A record longer than TLS allows.
    SendsHugeRecord,
    /// A server that knows TLS 1.0 alone.
    IsTls10,
    /// A server that refuses the handshake.
    RefusesHandshake,
    /// A server that finds no TLS version in common.
    KnowsNoCommonVersion,
}

impl Connection {
    /// Treats one accepted connection that way.
    pub(super) async fn misbehave(self, mut stream: TcpStream) -> Result<()> {
        match self {
            Self::IsRefused | Self::HasNoAddress => return Ok(()),
            Self::StaysSilent => pending::<()>().await,
            _ => {}
        }
        let mut hello = [0; 4096];
        if self != Self::IsClosedAtOnce {
            let _ = stream.read(&mut hello).await?;
        }
        let answer: &[u8] = match self {
            Self::IsReset => {
                reset(&stream)?;
                return Ok(());
            }
            Self::DripsHandshake => {
                // A handshake record of 122 bytes, as a server hello is.
                for byte in [0x16, 3, 3, 0, 122].into_iter().chain(std::iter::repeat(0)) {
                    stream.write_u8(byte).await?;
                    sleep(Duration::from_secs(1)).await;
                }
                return Ok(());
            }
            Self::IsPlainHttp => b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            Self::IsSsh => b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7\r\n",
            Self::IsGarbage => &[0xa7; 512],
            Self::SendsHugeRecord => &[0x16, 3, 3, 0xff, 0xff, 2, 0, 0, 70],
            Self::IsTls10 => &TLS10_SERVER_HELLO,
            Self::RefusesHandshake => &alert(40),
            Self::KnowsNoCommonVersion => &alert(70),
            _ => &[],
        };
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        // Unread bytes would turn the end into a reset, and the answer might be lost.
        while stream.read(&mut hello).await? > 0 {}
        Ok(())
    }
}

/// Closes with a reset instead of an orderly end once `stream` is dropped.
pub(super) fn reset(stream: &TcpStream) -> Result<()> {
    stream.set_zero_linger()?;
    Ok(())
}

const fn alert(description: u8) -> [u8; 7] {
    [0x15, 3, 1, 0, 2, 2, description]
}

/// A record with a server hello: version 3.1, a random of zeros, no session, TLS_RSA_WITH_AES_128_CBC_SHA, no
/// compression.
const TLS10_SERVER_HELLO: [u8; 47] = {
    let mut record = [0; 47];
    let head = [0x16, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1];
    let mut at = 0;
    while at < head.len() {
        record[at] = head[at];
        at += 1;
    }
    record[45] = 0x2f;
    record
};
