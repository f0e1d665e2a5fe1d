//! HTTP/1.1 responses no bundle endpoint should give. The TLS around them is right.

use std::{future::pending, time::Duration};

use anyhow::Result;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::server::TlsStream;

use super::{connection::reset, dns::TRAP_NAME};

/// Length of the body a gzip bomb unfolds to.
const BOMB_BYTES: usize = 64 * 1024 * 1024;

/// Pause between the parts of what never ends, so that the partner does not take the machine from the tests.
pub(super) const BREATH: Duration = Duration::from_millis(5);

/// What is wrong with the response to a GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Response {
    /// Not a byte of it ever comes.
    NeverComes,
    /// The connection is closed instead.
    IsNoneAtAll,
    /// The body comes at one byte a second.
    DripsBody,
    /// The headers come at one byte a second.
    DripsHeaders,
    /// `100 Continue`, again and again.
    IsContinueForEver,
    /// Header after header, without end.
    HasEndlessHeaders,
    /// One header of a megabyte.
    HasHugeHeader,
    /// A body without status line and headers, as in HTTP/0.9.
    IsHttp09,
    /// A body in chunks, without end.
    HasEndlessBody,
    /// A `content-length` of a terabyte.
    HasHugeLength,
    /// A `content-length` that no number holds.
    HasImpossibleLength,
    /// Two `content-length` headers that differ.
    HasTwoLengths,
    /// The end comes before the announced length.
    IsTruncated,
    /// A reset comes before the announced length.
    IsResetInBody,
    /// The last chunk is missing.
    LacksLastChunk,
    /// The size of a chunk is no number.
    HasBrokenChunk,
    /// A gzip bomb, and said to be gzip.
    IsGzipBomb,
    /// Said to be compressed with something else.
    IsBrotli,
    /// 204.
    IsEmpty,
    /// 206.
    IsPartial,
    /// 304, though nobody asked conditionally.
    IsUnaskedNotModified,
    /// 401.
    IsUnauthorized,
    /// 404.
    IsNotFound,
    /// 429.
    IsTooManyRequests,
    /// 500, with a perfect bundle as body.
    IsServerError,
    /// 101.
    SwitchesProtocols,
    /// Redirects to itself.
    RedirectsInCircle,
    /// Redirects to another URL each time.
    RedirectsOn,
    /// Redirects to another URL each time, slowly.
    RedirectsSlowly,
    /// Redirects to http.
    RedirectsToHttp,
    /// Redirects to a file.
    RedirectsToFile,
    /// Redirects without saying where to.
    RedirectsNowhere,
    /// Redirects to what is no URL.
    RedirectsToNonsense,
    /// Redirects to a URL with a password.
    RedirectsWithPassword,
    /// Redirects to a server that cannot prove who it is.
    RedirectsToStranger,
    /// Redirects to a private address.
    RedirectsToPrivate,
    /// Redirects to where clouds have their metadata service.
    RedirectsToMetadata,
    /// Redirects to this machine, by an IPv6 address with an IPv4 one inside.
    RedirectsToMapped,
    /// Redirects to a name that leads to this machine.
    RedirectsToLoopbackByName,
}

/// What a response is made of.
pub(super) struct Exchange<'a> {
    /// The connection.
    pub(super) stream: &'a mut TlsStream<TcpStream>,
    /// Path of the request.
    pub(super) path: &'a str,
    /// A bundle beyond reproach.
    pub(super) good: &'a [u8],
    /// URL of a server that cannot prove who it is.
    pub(super) stranger: Option<&'a str>,
}

impl Response {
    /// Gives the response and ends the connection.
    pub(super) async fn give(self, exchange: Exchange<'_>) -> Result<()> {
        let Exchange { stream, path, good, stranger } = exchange;
        match self {
            Self::NeverComes => pending::<()>().await,
            Self::DripsBody => {
                stream.write_all(&head("200 OK", &[("content-length", &good.len().to_string())])).await?;
                return drip(stream, good).await;
            }
            Self::DripsHeaders => return drip(stream, &head("200 OK", &[("x-padding", &"x".repeat(4096))])).await,
            Self::IsContinueForEver => return forever(stream, b"HTTP/1.1 100 Continue\r\n\r\n").await,
            Self::HasEndlessHeaders => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
                return forever(stream, b"x-more: headers, and then some more of them\r\n").await;
            }
            Self::HasEndlessBody => {
                stream.write_all(&head("200 OK", &[("transfer-encoding", "chunked")])).await?;
                let chunk = [b"4000\r\n", &[b' '; 0x4000][..], b"\r\n"].concat();
                return forever(stream, &chunk).await;
            }
            Self::RedirectsSlowly => sleep(Duration::from_millis(800)).await,
            _ => {}
        }
        stream.write_all(&self.whole(path, good, stranger)).await?;
        stream.flush().await?;
        if self == Self::IsResetInBody {
            // Let the first half arrive.
            sleep(Duration::from_millis(100)).await;
            reset(stream.get_ref().0)
        } else {
            Ok(stream.shutdown().await?)
        }
    }

    /// Responses whose bytes are known beforehand.
    fn whole(self, path: &str, good: &[u8], stranger: Option<&str>) -> Vec<u8> {
        let with_body = |status, headers: &[(&str, &str)], body: &[u8]| {
            let length = body.len().to_string();
            let headers = [headers, &[("content-length", length.as_str())]].concat();
            [head(status, &headers), body.to_vec()].concat()
        };
        let redirect = |to: &str| with_body("302 Found", &[("location", to)], b"");
        match self {
            Self::HasHugeHeader => with_body("200 OK", &[("x-huge", &"x".repeat(1 << 20))], good),
            Self::IsHttp09 => good.to_vec(),
            Self::HasHugeLength => head("200 OK", &[("content-length", "1099511627776")]),
            Self::HasImpossibleLength => head("200 OK", &[("content-length", &"9".repeat(40))]),
            Self::HasTwoLengths => with_body("200 OK", &[("content-length", "7")], good),
            Self::IsTruncated | Self::IsResetInBody => {
                let half = good.get(..good.len() / 2).unwrap_or_default();
                [head("200 OK", &[("content-length", &good.len().to_string())]), half.to_vec()].concat()
            }
            Self::LacksLastChunk => {
                let chunk = [format!("{:x}\r\n", good.len()).as_bytes(), good, b"\r\n"].concat();
                [head("200 OK", &[("transfer-encoding", "chunked")]), chunk].concat()
            }
            Self::HasBrokenChunk => {
                [head("200 OK", &[("transfer-encoding", "chunked")]), b"seven\r\n{\"keys\"".to_vec()].concat()
            }
            Self::IsGzipBomb => with_body("200 OK", &[("content-encoding", "gzip")], &gzip_bomb(BOMB_BYTES)),
            Self::IsBrotli => with_body("200 OK", &[("content-encoding", "br")], good),
            Self::IsEmpty => head("204 No Content", &[]),
            Self::IsPartial => with_body("206 Partial Content", &[("content-range", "bytes 0-9/10")], good),
            Self::IsUnaskedNotModified => head("304 Not Modified", &[]),
            Self::IsUnauthorized => with_body("401 Unauthorized", &[("www-authenticate", "Basic")], b""),
            Self::IsNotFound => with_body("404 Not Found", &[], b"404 page not found\n"),
            Self::IsTooManyRequests => with_body("429 Too Many Requests", &[("retry-after", "3600")], b""),
            Self::IsServerError => with_body("500 Internal Server Error", &[], good),
            Self::SwitchesProtocols => {
                head("101 Switching Protocols", &[("connection", "upgrade"), ("upgrade", "websocket")])
            }
            Self::RedirectsInCircle => redirect(path),
            Self::RedirectsOn | Self::RedirectsSlowly => redirect(&format!("{path}/further")),
            Self::RedirectsToHttp => redirect("http://localhost/bundle"),
            Self::RedirectsToFile => redirect("file:///etc/passwd"),
            Self::RedirectsNowhere => with_body("302 Found", &[], b""),
            Self::RedirectsToNonsense => redirect("https://[::1/bundle"),
            Self::RedirectsWithPassword => redirect("https://root:toor@localhost/bundle"),
            Self::RedirectsToStranger => redirect(stranger.unwrap_or_default()),
            Self::RedirectsToPrivate => redirect("https://10.0.0.1/bundle"),
            Self::RedirectsToMetadata => redirect("https://169.254.169.254/latest/meta-data/"),
            Self::RedirectsToMapped => redirect("https://[::ffff:127.0.0.66]/bundle"),
            Self::RedirectsToLoopbackByName => redirect(&format!("https://{TRAP_NAME}/bundle")),
            _ => Vec::new(),
        }
    }
}

fn head(status: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\n{lines}\r\n").into_bytes()
}

async fn drip(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    for &byte in bytes {
        stream.write_u8(byte).await?;
        stream.flush().await?;
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Writes `part` until the other side has enough.
pub(super) async fn forever(stream: &mut (impl AsyncWrite + Unpin), part: &[u8]) -> Result<()> {
    // About 64 KiB at once, however small the part is.
    let many = part.repeat((64 * 1024 / part.len().max(1)).max(1));
    loop {
        stream.write_all(&many).await?;
        stream.flush().await?;
        sleep(BREATH).await;
    }
}

/// `length` zeros in gzip, at 1:150: one block of fixed Huffman codes (RFC 1951), a literal and then repetitions of it.
/// Its checksum is wrong, which nobody finds out before unfolding all of it.
pub(super) fn gzip_bomb(length: usize) -> Vec<u8> {
    let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut byte, mut used) = (0, 0);
    let mut put = |bits: u16, count: u32| {
        for index in (0..count).rev() {
            byte |= u8::from(bits >> index & 1 == 1) << used;
            used += 1;
            if used == 8 {
                bomb.push(byte);
                (byte, used) = (0, 0);
            }
        }
    };
    // The last block, fixed codes; then the literal 0.
    put(0b110, 3);
    put(0b0011_0000, 8);
    for _ in 0..length / 258 {
        // Length 258 (code 285), distance 1 (code 0).
        put(0b1100_0101, 8);
        put(0, 5);
    }
    // The end of the block, and what it takes to fill the last byte.
    put(0, 7);
    put(0, 8);
    bomb.extend([0; 8]);
    bomb
}
