//! The little DER that has to be written or read by hand: public keys made
//! from JWK members, and ECDSA signatures between their two forms.

/// Tag of a SEQUENCE.
pub(crate) const SEQUENCE: u8 = 0x30;
/// Tag of an INTEGER.
pub(crate) const INTEGER: u8 = 0x02;
/// Tag of a BIT STRING.
pub(crate) const BIT_STRING: u8 = 0x03;

/// One element: tag, definite length, contents.
pub(crate) fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(contents.len() + 6);
    out.push(tag);
    let length = contents.len();
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let used = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
        out.push(0x80 | (bytes.len() - used) as u8);
        out.extend_from_slice(&bytes[used..]);
    }
    out.extend_from_slice(contents);
    out
}

/// A non-negative INTEGER from big-endian bytes, leading zeros or not.
pub(crate) fn unsigned_integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let significant = &bytes[start..];
    let mut contents = Vec::with_capacity(significant.len() + 1);
    if significant.first().is_none_or(|byte| byte & 0x80 != 0) {
        contents.push(0);
    }
    contents.extend_from_slice(significant);
    element(INTEGER, &contents)
}

/// Takes one element with `tag` off the front: its contents and what follows.
/// Lengths must be minimal and definite, as DER demands.
pub(crate) fn take(tag: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = input.split_first()?;
    if *first != tag {
        return None;
    }
    let (length, rest) = take_length(rest)?;
    rest.split_at_checked(length)
}

/// The length octets at the front of `input`, and what follows them.
pub(crate) fn take_length(input: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = input.split_first()?;
    if *first < 0x80 {
        return Some((usize::from(*first), rest));
    }
    let count = usize::from(*first & 0x7f);
    if count == 0 || count > 4 {
        return None;
    }
    let (octets, rest) = rest.split_at_checked(count)?;
    let length = octets.iter().fold(0usize, |length, octet| (length << 8) | usize::from(*octet));
    let minimal = octets.first() != Some(&0) && length >= 0x80;
    minimal.then_some((length, rest))
}

/// The magnitude of a positive INTEGER at the front of `input`, without
/// leading zeros, and what follows it.
pub(crate) fn take_positive_integer(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (contents, rest) = take(INTEGER, input)?;
    match contents {
        [] | [0x80..=0xff, ..] | [0] => None,
        [0, second, ..] if *second < 0x80 => None,
        [0, magnitude @ ..] => Some((magnitude, rest)),
        magnitude => Some((magnitude, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_minimal_both_ways() {
        for size in [0usize, 1, 127, 128, 255, 256, 70_000] {
            let encoded = element(SEQUENCE, &vec![7; size]);
            let (contents, rest) = take(SEQUENCE, &encoded).unwrap();
            assert_eq!((contents.len(), rest.len()), (size, 0));
        }
        assert!(take(SEQUENCE, &[0x30, 0x81, 0x05, 1, 2, 3, 4, 5]).is_none(), "length not minimal");
        assert!(take(SEQUENCE, &[0x30, 0x80, 0, 0]).is_none(), "indefinite length");
        assert!(take(SEQUENCE, &[0x30, 0x03, 1]).is_none(), "cut short");
    }

    #[test]
    fn integers_keep_their_sign_octet() {
        assert_eq!(unsigned_integer(&[]), [2, 1, 0]);
        assert_eq!(unsigned_integer(&[0, 0, 5]), [2, 1, 5]);
        assert_eq!(unsigned_integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(take_positive_integer(&[2, 2, 0, 0x80]).unwrap().0, [0x80]);
        assert!(take_positive_integer(&[2, 1, 0x80]).is_none(), "negative");
        assert!(take_positive_integer(&[2, 2, 0, 5]).is_none(), "not minimal");
        assert!(take_positive_integer(&[2, 1, 0]).is_none(), "zero");
    }
}
