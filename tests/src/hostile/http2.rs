//! Misbehaving in HTTP/2, frame by frame (RFC 9113). The TLS around it is right.

use anyhow::Result;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::sleep,
};

use super::response::{BREATH, forever};

/// What is wrong with the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Http2 {
    /// Nothing ever comes, not even settings.
    StaysSilent,
    /// Settings, and never a response.
    NeverAnswers,
    /// GOAWAY instead of settings.
    GoesAwayAtOnce,
    /// Settings, then GOAWAY.
    GoesAway,
    /// HTTP/1.1 after agreeing on HTTP/2.
    SpeaksHttp1,
    /// Bytes that are no frames.
    SpeaksGarbage,
    /// A frame longer than allowed.
    SendsHugeFrame,
    /// The stream of the request is reset.
    ResetsStream,
    /// The stream is reset in the middle of the body.
    ResetsInBody,
    /// Headers that never end.
    SendsEndlessHeaders,
    /// A body that is too long, yet shorter than the client's windows (2 MiB and more).
    SendsHugeBody,
    /// Headers that no decoder understands.
    SendsBrokenHeaders,
    /// Pings without end.
    PingsForEver,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:status: 200`, indexed.
const STATUS_200: u8 = 0x88;

/// ENHANCE_YOUR_CALM.
const CALM: [u8; 4] = [0, 0, 0, 11];

impl Http2 {
    /// Treats one connection that way, from the client's preface on.
    pub(super) async fn misbehave(self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
        let settings = frame(SETTINGS, 0, 0, &[]);
        let ok = frame(HEADERS, END_HEADERS, 1, &[STATUS_200]);
        let go_away = frame(GOAWAY, 0, 0, &[&[0, 0, 0, 0][..], &CALM].concat());
        let opening: Vec<u8> = match self {
            Self::StaysSilent => Vec::new(),
            Self::NeverAnswers => settings,
            Self::GoesAwayAtOnce => go_away,
            Self::GoesAway => [settings, go_away].concat(),
            Self::SpeaksHttp1 => b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}".to_vec(),
            Self::SpeaksGarbage => vec![0xa7; 512],
            Self::SendsHugeFrame => [settings, vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]].concat(),
            Self::ResetsStream => [settings, frame(RST_STREAM, 0, 1, &CALM)].concat(),
            Self::ResetsInBody => {
                [settings, ok, frame(DATA, 0, 1, b"{\"keys\": ["), frame(RST_STREAM, 0, 1, &CALM)].concat()
            }
            Self::SendsEndlessHeaders => [settings, frame(HEADERS, 0, 1, &[STATUS_200])].concat(),
            // The client's windows count once its settings are acknowledged.
            Self::SendsHugeBody => [settings, frame(SETTINGS, ACK, 0, &[]), ok].concat(),
            // An index far beyond the table.
            Self::SendsBrokenHeaders => [settings, frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0x7f])].concat(),
            Self::PingsForEver => settings,
        };
        // Stream 1 does not exist before the request came: preface, settings, window update, headers.
        let mut received = 0;
        let mut buffer = vec![0; 4096];
        while received < 24 + 9 || (!ended_with_headers(&buffer, received) && received < buffer.len()) {
            let count = stream.read(buffer.get_mut(received..).unwrap_or_default()).await?;
            if count == 0 {
                return Ok(());
            }
            received += count;
        }
        stream.write_all(&opening).await?;
        stream.flush().await?;
        match self {
            Self::SendsEndlessHeaders => forever(stream, &frame(CONTINUATION, 0, 1, &literal_header())).await,
            Self::PingsForEver => forever(stream, &frame(PING, 0, 0, &[7; 8])).await,
            Self::SendsHugeBody => {
                let frames = buffer.get(24..received).unwrap_or_default().to_vec();
                Windows::new(frames).send(stream, 96).await
            }
            _ => {
                while stream.read(&mut buffer).await? > 0 {
                    sleep(BREATH).await;
                }
                Ok(())
            }
        }
    }
}

/// How much the client takes (RFC 9113 section 5.2), so that only the size of the body is wrong.
struct Windows {
    /// What it sent and was not looked at.
    frames: Vec<u8>,
    connection: i64,
    stream: i64,
}

impl Windows {
    fn new(frames: Vec<u8>) -> Self {
        Self { frames, connection: 65_535, stream: 65_535 }
    }

    /// Sends so many frames of 16 KiB, waiting for room as often as it takes.
    async fn send(mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), count: usize) -> Result<()> {
        let data = frame(DATA, 0, 1, &[b' '; 0x4000]);
        let mut buffer = vec![0; 4096];
        for _ in 0..count {
            self.look();
            while self.connection.min(self.stream) < 0x4000 {
                let count = stream.read(&mut buffer).await?;
                if count == 0 {
                    return Ok(());
                }
                self.frames.extend_from_slice(buffer.get(..count).unwrap_or_default());
                self.look();
            }
            stream.write_all(&data).await?;
            stream.flush().await?;
            self.connection -= 0x4000;
            self.stream -= 0x4000;
        }
        Ok(())
    }

    /// Takes note of every whole frame.
    fn look(&mut self) {
        while let [a, b, c, kind, flags, s0, s1, s2, s3, rest @ ..] = self.frames.as_slice() {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            let Some(payload) = rest.get(..length) else { return };
            let number = |bytes: &[u8]| bytes.iter().fold(0_i64, |sum, byte| sum << 8 | i64::from(*byte));
            match *kind {
                WINDOW_UPDATE if [*s0, *s1, *s2, *s3] == [0; 4] => self.connection += number(payload),
                WINDOW_UPDATE => self.stream += number(payload),
                SETTINGS if flags & ACK == 0 => {
                    for setting in payload.as_chunks::<6>().0 {
                        // SETTINGS_INITIAL_WINDOW_SIZE
                        if setting.starts_with(&[0, 4]) {
                            self.stream += number(setting.get(2..).unwrap_or_default()) - 65_535;
                        }
                    }
                }
                _ => {}
            }
            self.frames.drain(..9 + length);
        }
    }
}

/// Whether the client's frames so far include HEADERS.
fn ended_with_headers(buffer: &[u8], received: usize) -> bool {
    let mut rest = buffer.get(24..received).unwrap_or_default();
    while let [a, b, c, kind, _, _, _, _, _, ..] = rest {
        if *kind == HEADERS {
            return true;
        }
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    false
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `x-more: …` of 1,000 bytes, not to be indexed.
fn literal_header() -> Vec<u8> {
    // 1,000 in seven bits and the rest (RFC 7541 section 5.1).
    [&[0, 6][..], b"x-more", &[127, 0xe9, 0x06], &[b'x'; 1000]].concat()
}
