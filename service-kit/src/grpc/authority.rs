//! Lets gRPC clients through that send the socket path as `:authority`.
//!
//! Over a Unix socket, clients built on gRPC C-core (Python, C++, Ruby, PHP) send the percent-encoded path of the
//! socket as the `:authority` of each request. That is no valid authority, and h2 resets such streams with
//! PROTOCOL_ERROR. [`AuthorityFix`] sits between the socket and the HTTP/2 server, decodes every header block the client
//! sends, puts `localhost` in place of an authority that does not parse, and encodes the block again without
//! compression. Every other frame passes unchanged.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame header (RFC 9113, section 4.1).
const FRAME_HEADER_BYTES: usize = 9;

/// Largest frame payload: the protocol's default, which our servers do not raise.
const MAX_FRAME_BYTES: usize = 1 << 14;

/// Longest encoded header block, over HEADERS and all its CONTINUATION frames.
const MAX_HEADER_BLOCK_BYTES: usize = 64 << 10;

/// Largest decoded header list, by the reckoning of RFC 9113, section 6.5.2. Far above what our servers take.
const MAX_HEADER_LIST_BYTES: usize = 64 << 10;

/// What each header counts for besides its name and value (RFC 9113, section 6.5.2).
const HEADER_OVERHEAD_BYTES: usize = 32;

/// Size of the compression table the client may use: the protocol's default, which our servers do not change.
const HEADER_TABLE_BYTES: usize = 4096;

/// No more input is looked at while this much output waits.
const MAX_PENDING_OUTPUT_BYTES: usize = 64 << 10;

/// Bytes read from the socket at once.
const READ_BYTES: usize = 8 << 10;

/// Buffers that have grown beyond this are given back when they run empty.
const KEPT_BUFFER_BYTES: usize = 4 << 10;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Length of the priority fields of a HEADERS frame.
const PRIORITY_BYTES: usize = 5;

/// A stream from an HTTP/2 client whose unparsable `:authority` headers are replaced. Writing is not touched.
#[derive(Debug)]
pub struct AuthorityFix<T> {
    io: T,
    rewriter: Rewriter,
}

impl<T> AuthorityFix<T> {
    /// Wraps the server's end of a fresh connection.
    pub fn new(io: T) -> Self {
        Self { io, rewriter: Rewriter::default() }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for AuthorityFix<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.rewriter.take_output(buf) {
                return Poll::Ready(Ok(()));
            }
            if this.rewriter.advance()? {
                continue;
            }
            let mut bytes = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.rewriter.input.extend_from_slice(read.filled());
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for AuthorityFix<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<T: Connected> Connected for AuthorityFix<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

/// How far the connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The preface is not complete yet.
    Preface,
    /// Frames follow each other.
    Frames,
    /// This is not HTTP/2; the server may say so itself.
    Foreign,
}

/// A header block still being received.
#[derive(Debug)]
struct HeaderBlock {
    stream_id: [u8; 4],
    end_stream: bool,
    encoded: Vec<u8>,
}

/// The bytes on their way from the client to the server.
struct Rewriter {
    stage: Stage,
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of `output` was handed on.
    taken: usize,
    block: Option<HeaderBlock>,
    decoder: Decoder<'static>,
}

impl Default for Rewriter {
    fn default() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(HEADER_TABLE_BYTES);
        Self { stage: Stage::Preface, input: Vec::new(), output: Vec::new(), taken: 0, block: None, decoder }
    }
}

impl std::fmt::Debug for Rewriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rewriter").field("stage", &self.stage).finish_non_exhaustive()
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

impl Rewriter {
    /// Hands waiting output on; `false` if there is none.
    fn take_output(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let waiting = &self.output[self.taken..];
        if waiting.is_empty() {
            return false;
        }
        let count = waiting.len().min(buf.remaining());
        buf.put_slice(&waiting[..count]);
        self.taken += count;
        if self.taken == self.output.len() {
            self.taken = 0;
            clear(&mut self.output);
        }
        true
    }

    /// Turns input into output, up to [`MAX_PENDING_OUTPUT_BYTES`]; `false` if more input is needed first.
    fn advance(&mut self) -> io::Result<bool> {
        if self.stage == Stage::Preface {
            let seen = self.input.len().min(PREFACE.len());
            if self.input[..seen] != PREFACE[..seen] {
                self.stage = Stage::Foreign;
            } else if seen < PREFACE.len() {
                return Ok(false);
            } else {
                self.output.extend_from_slice(PREFACE);
                self.input.drain(..PREFACE.len());
                self.stage = Stage::Frames;
            }
        }
        if self.stage == Stage::Foreign {
            self.output.append(&mut self.input);
            return Ok(!self.output.is_empty());
        }
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        while self.output.len() < MAX_PENDING_OUTPUT_BYTES
            && let Some((frame, after)) = split_frame(rest)?
        {
            self.frame(frame)?;
            rest = after;
        }
        let used = input.len() - rest.len();
        self.input = input;
        self.input.drain(..used);
        if self.input.is_empty() {
            clear(&mut self.input);
        }
        Ok(!self.output.is_empty())
    }

    /// Passes one whole frame on, or keeps it if it is part of a header block.
    fn frame(&mut self, frame: &[u8]) -> io::Result<()> {
        let (header, payload) = frame.split_at(FRAME_HEADER_BYTES);
        let (kind, flags, stream_id) = (header[3], header[4], [header[5], header[6], header[7], header[8]]);
        match (kind, self.block.take()) {
            (HEADERS, None) => {
                let fragment = header_fragment(flags, payload)?;
                let block = HeaderBlock { stream_id, end_stream: flags & END_STREAM != 0, encoded: fragment.to_vec() };
                self.continue_block(block, flags)
            }
            (CONTINUATION, Some(mut block)) if block.stream_id == stream_id => {
                if block.encoded.len() + payload.len() > MAX_HEADER_BLOCK_BYTES {
                    return Err(invalid("HTTP/2 header block is too long"));
                }
                block.encoded.extend_from_slice(payload);
                self.continue_block(block, flags)
            }
            (CONTINUATION, _) => Err(invalid("HTTP/2 CONTINUATION frame without its header block")),
            (_, Some(_)) => Err(invalid("HTTP/2 header block is interrupted by another frame")),
            (_, None) => {
                self.output.extend_from_slice(frame);
                Ok(())
            }
        }
    }

    fn continue_block(&mut self, block: HeaderBlock, flags: u8) -> io::Result<()> {
        if flags & END_HEADERS == 0 {
            self.block = Some(block);
            return Ok(());
        }
        let encoded = self.rewrite(&block.encoded)?;
        let mut fragments = encoded.chunks(MAX_FRAME_BYTES).peekable();
        let mut kind = HEADERS;
        loop {
            let fragment = fragments.next().unwrap_or_default();
            let mut flags = if kind == HEADERS && block.end_stream { END_STREAM } else { 0 };
            if fragments.peek().is_none() {
                flags |= END_HEADERS;
            }
            // A fragment has at most 2^14 bytes, so its length fits in the three bytes of the field.
            let length = u32::try_from(fragment.len()).map_err(|_| invalid("HTTP/2 fragment is too long"))?;
            self.output.extend_from_slice(&length.to_be_bytes()[1..]);
            self.output.extend_from_slice(&[kind, flags]);
            self.output.extend_from_slice(&block.stream_id);
            self.output.extend_from_slice(fragment);
            if flags & END_HEADERS != 0 {
                return Ok(());
            }
            kind = CONTINUATION;
        }
    }

    /// Decodes a header block and encodes it again, each header a literal that is not indexed.
    fn rewrite(&mut self, encoded: &[u8]) -> io::Result<Vec<u8>> {
        let mut rewritten = Vec::with_capacity(encoded.len() + 64);
        let mut list_bytes = 0_usize;
        let decoded = self.decoder.decode_with_cb(encoded, |name, value| {
            list_bytes = list_bytes.saturating_add(name.len() + value.len() + HEADER_OVERHEAD_BYTES);
            if list_bytes > MAX_HEADER_LIST_BYTES {
                return;
            }
            let value = match http::uri::Authority::try_from(&*value) {
                Err(_) if &*name == b":authority" => b"localhost",
                _ => &*value,
            };
            rewritten.push(0);
            encode_string(&mut rewritten, &name);
            encode_string(&mut rewritten, value);
        });
        decoded.map_err(|_| invalid("HTTP/2 header block cannot be decoded"))?;
        if list_bytes > MAX_HEADER_LIST_BYTES {
            return Err(invalid("HTTP/2 header list is too long"));
        }
        Ok(rewritten)
    }
}

/// Empties a buffer, giving back one that has grown.
fn clear(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_BUFFER_BYTES {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

/// The first whole frame, with its header, and what follows it.
fn split_frame(input: &[u8]) -> io::Result<Option<(&[u8], &[u8])>> {
    let [high, middle, low, ..] = *input else { return Ok(None) };
    let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    if length > MAX_FRAME_BYTES {
        return Err(invalid("HTTP/2 frame is too long"));
    }
    Ok(input.split_at_checked(FRAME_HEADER_BYTES + length))
}

/// The header block fragment of a HEADERS payload, without padding and priority.
fn header_fragment(flags: u8, payload: &[u8]) -> io::Result<&[u8]> {
    let short = || invalid("HTTP/2 HEADERS frame is too short");
    let mut fragment = payload;
    if flags & PADDED != 0 {
        let (padding, after) = payload.split_first().ok_or_else(short)?;
        let length = after.len().checked_sub(usize::from(*padding)).ok_or_else(short)?;
        fragment = &after[..length];
    }
    if flags & PRIORITY != 0 {
        fragment = fragment.get(PRIORITY_BYTES..).ok_or_else(short)?;
    }
    Ok(fragment)
}

/// A string literal without Huffman coding (RFC 7541, section 5.2).
fn encode_string(output: &mut Vec<u8>, string: &[u8]) {
    let mut length = string.len();
    if length < 127 {
        output.push(length as u8);
    } else {
        output.push(127);
        length -= 127;
        while length >= 128 {
            output.push((length % 128) as u8 | 128);
            length /= 128;
        }
        output.push(length as u8);
    }
    output.extend_from_slice(string);
}

#[cfg(test)]
mod tests;
