use super::*;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Encodes headers as a C-core client does: indexed where the static table has them, else literals put into the
/// dynamic table.
fn encode(encoder: &mut loona_hpack::Encoder<'_>, headers: &[(&str, &str)]) -> Vec<u8> {
    encoder.encode(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What the server reads when the client sends `input` in pieces of `piece` bytes.
async fn through(input: &[u8], piece: usize) -> io::Result<Vec<u8>> {
    let (mut client, server) = tokio::io::duplex(input.len() + 1);
    let mut fixed = AuthorityFix::new(server);
    let mut output = Vec::new();
    let reading = async {
        let mut buffer = [0; 1000];
        loop {
            match fixed.read(&mut buffer).await? {
                0 => return Ok(output),
                count => output.extend_from_slice(&buffer[..count]),
            }
        }
    };
    let writing = async {
        for piece in input.chunks(piece) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(client);
    };
    tokio::join!(reading, writing).0
}

/// Splits what the server read into frames: kind, flags, stream, payload.
fn frames(bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut rest = bytes.strip_prefix(PREFACE.as_slice()).unwrap();
    let mut frames = Vec::new();
    while let Some((frame, after)) = split_frame(rest).unwrap() {
        let stream = u32::from_be_bytes(frame[5..9].try_into().unwrap());
        frames.push((frame[3], frame[4], stream, frame[9..].to_vec()));
        rest = after;
    }
    assert!(rest.is_empty());
    frames
}

fn decode(block: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let decoded = Decoder::new().decode(block).unwrap();
    decoded.into_iter().map(|(name, value)| (text(name), text(value))).collect()
}

const REQUEST: [(&str, &str); 5] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
    (":authority", "%2Ftmp%2Fspire-agent%2Fpublic%2Fapi.sock"),
    ("workload.spiffe.io", "true"),
];

fn expected(authority: &str) -> Vec<(String, String)> {
    let mut headers: Vec<_> = REQUEST.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    headers[3].1 = authority.to_string();
    headers
}

fn with_preface(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    frames.iter().for_each(|frame| bytes.extend(frame));
    bytes
}

#[tokio::test]
async fn rewrites_the_socket_path_however_the_bytes_arrive() {
    let mut encoder = loona_hpack::Encoder::new();
    let settings = frame(4, 0, 0, &[0, 2, 0, 0, 0, 0]);
    let headers = frame(HEADERS, END_HEADERS, 1, &encode(&mut encoder, &REQUEST));
    let data = frame(0, END_STREAM, 1, b"\0\0\0\0\0");
    let input = with_preface(&[settings.clone(), headers, data.clone()]);
    for piece in [1, 7, 23, 24, 25, input.len()] {
        let output = frames(&through(&input, piece).await.unwrap());
        assert_eq!(output.len(), 3);
        assert_eq!(output[0].3, settings[9..]);
        assert_eq!((output[1].0, output[1].1, output[1].2), (HEADERS, END_HEADERS, 1));
        assert_eq!(decode(&output[1].3), expected("localhost"));
        assert_eq!((output[2].1, output[2].3.as_slice()), (END_STREAM, &data[9..]));
    }
}

#[tokio::test]
async fn keeps_the_compression_state_and_good_authorities() {
    let mut good = REQUEST;
    good[3].1 = "agent.example:8443";
    let mut first = Vec::new();
    for (name, value) in good {
        first.push(0x40); // a literal put into the dynamic table, where the newest has index 62
        encode_string(&mut first, name.as_bytes());
        encode_string(&mut first, value.as_bytes());
    }
    let again = [66, 65, 64, 63, 62].map(|index| 0x80 | index);
    let input =
        with_preface(&[frame(HEADERS, END_HEADERS, 1, &first), frame(HEADERS, END_HEADERS | END_STREAM, 3, &again)]);
    let output = frames(&through(&input, 64).await.unwrap());
    for (index, stream) in [(0, 1), (1, 3)] {
        assert_eq!(output[index].2, stream);
        assert_eq!(decode(&output[index].3), expected("agent.example:8443"));
    }
    assert_eq!(output[1].1, END_HEADERS | END_STREAM);
}

#[tokio::test]
async fn padding_priority_and_continuation_are_understood() {
    let block = encode(&mut loona_hpack::Encoder::new(), &REQUEST);
    let (start, rest) = block.split_at(10);
    let (middle, end) = rest.split_at(10);
    let mut payload = vec![3];
    payload.extend([0x80, 0, 0, 0, 15]);
    payload.extend(start);
    payload.extend([0, 0, 0]);
    let input = with_preface(&[
        frame(HEADERS, PADDED | PRIORITY | END_STREAM, 5, &payload),
        frame(CONTINUATION, 0, 5, middle),
        frame(CONTINUATION, END_HEADERS, 5, end),
    ]);
    let output = frames(&through(&input, 13).await.unwrap());
    assert_eq!(output.len(), 1);
    assert_eq!((output[0].0, output[0].1, output[0].2), (HEADERS, END_HEADERS | END_STREAM, 5));
    assert_eq!(decode(&output[0].3), expected("localhost"));
}

#[tokio::test]
async fn long_header_lists_are_split_again() {
    let value = "v".repeat(1000);
    let headers: Vec<(&str, &str)> = (0..40).map(|_| ("x", value.as_str())).collect();
    let mut block = Vec::new();
    for (name, value) in &headers {
        block.push(0);
        encode_string(&mut block, name.as_bytes());
        encode_string(&mut block, value.as_bytes());
    }
    let mut parts = block.chunks(MAX_FRAME_BYTES);
    let mut sent = vec![frame(HEADERS, 0, 1, parts.next().unwrap())];
    sent.extend(parts.map(|part| frame(CONTINUATION, 0, 1, part)));
    sent.last_mut().unwrap()[4] = END_HEADERS;
    let output = frames(&through(&with_preface(&sent), 8192).await.unwrap());
    assert!(
        output.len() > 1 && output.iter().all(|(_, _, stream, part)| *stream == 1 && part.len() <= MAX_FRAME_BYTES)
    );
    assert_eq!(output.last().unwrap().1, END_HEADERS);
    let whole: Vec<u8> = output.iter().flat_map(|(_, _, _, part)| part.clone()).collect();
    assert_eq!(decode(&whole).len(), headers.len());
}

#[tokio::test]
async fn empty_header_blocks_pass() {
    let output =
        frames(&through(&with_preface(&[frame(HEADERS, END_HEADERS | END_STREAM, 1, &[])]), 64).await.unwrap());
    assert_eq!(output, [(HEADERS, END_HEADERS | END_STREAM, 1, vec![])]);
}

#[tokio::test]
async fn other_protocols_pass_untouched() {
    for input in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/1.1\r\n", b"\x16\x03\x01"] {
        assert_eq!(through(input, 4).await.unwrap(), input);
    }
    assert_eq!(through(&PREFACE[..10], 4).await.unwrap(), b"");
}

#[tokio::test]
async fn malformed_input_is_an_error() {
    let block = encode(&mut loona_hpack::Encoder::new(), &REQUEST);
    let endless: Vec<Vec<u8>> = std::iter::once(frame(HEADERS, 0, 1, &[0x82]))
        .chain((0..6).map(|_| frame(CONTINUATION, 0, 1, &vec![0x82; MAX_FRAME_BYTES])))
        .collect();
    let mut long_frame = frame(0, 0, 1, &[]);
    long_frame[..3].copy_from_slice(&[0, 0x40, 1]);
    // One large header put into the table, then named again and again: small on the wire, huge when decoded.
    let mut bomb = vec![0x40];
    encode_string(&mut bomb, b"x");
    encode_string(&mut bomb, &[b'v'; 4000]);
    bomb.extend(vec![0xbe; 10_000]);
    for (bad, reason) in [
        (vec![frame(HEADERS, 0, 1, &block), frame(0, 0, 1, b"x")], "interrupted"),
        (vec![frame(HEADERS, 0, 1, &block), frame(HEADERS, END_HEADERS, 3, &block)], "interrupted"),
        (vec![frame(HEADERS, 0, 1, &block), frame(CONTINUATION, END_HEADERS, 3, &[])], "without its header block"),
        (vec![frame(CONTINUATION, END_HEADERS, 1, &block)], "without its header block"),
        (vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[])], "too short"),
        (vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0])], "too short"),
        (vec![frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0; 4])], "too short"),
        (vec![frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff])], "cannot be decoded"),
        (vec![frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xff, 0xff, 0x03, 0x82])], "cannot be decoded"),
        (vec![frame(HEADERS, END_HEADERS, 1, &bomb)], "header list is too long"),
        (endless, "header block is too long"),
        (vec![long_frame], "frame is too long"),
    ] {
        let error = through(&with_preface(&bad), 4096).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
}

#[tokio::test]
async fn pending_output_is_bounded() {
    // Many small blocks that each grow when decoded.
    let long = "v".repeat(3000);
    let mut first = vec![0x40];
    encode_string(&mut first, b"x");
    encode_string(&mut first, long.as_bytes());
    let again = [0x80 | 62];
    let mut rewriter =
        Rewriter { input: with_preface(&[frame(HEADERS, END_HEADERS, 1, &first)]), ..Rewriter::default() };
    for stream in 1..2000 {
        rewriter.input.extend(frame(HEADERS, END_HEADERS, 2 * stream + 1, &again));
    }
    let mut blocks = 0;
    while rewriter.advance().unwrap() {
        assert!(rewriter.output.len() < MAX_PENDING_OUTPUT_BYTES + MAX_HEADER_LIST_BYTES);
        blocks += rewriter.output.windows(3000).filter(|window| *window == long.as_bytes()).count();
        rewriter.output.clear();
    }
    assert_eq!(blocks, 2000);
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0_u8..12, flags: u8) {
        let input = with_preface(&[frame(kind, flags, 1, &bytes), frame(kind, flags | END_HEADERS, 1, &bytes)]);
        let mut rewriter = Rewriter { input, ..Rewriter::default() };
        rewriter.input.extend(&bytes);
        let _ = rewriter.advance();
    }
}
