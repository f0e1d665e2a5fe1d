//! Every misbehaviour with the words a gateway must find for it.

use std::fmt::Write as _;

use super::{
    certificate::Certificate, connection::Connection, document::Document, http2::Http2, response::Response,
};

/// How a partner misbehaves, by the level it happens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Misbehaviour {
    /// TCP and the first bytes of TLS.
    Connection(Connection),
    /// The rest of TLS.
    Certificate(Certificate),
    /// HTTP/1.1.
    Response(Response),
    /// HTTP/2.
    Http2(Http2),
    /// The bundle.
    Document(Document),
}

/// Bundle endpoint profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// `https_web`.
    HttpsWeb,
    /// `https_spiffe`, serving its own trust domain.
    HttpsSpiffe,
}

impl Profile {
    /// Its name in configurations.
    pub fn word(self) -> &'static str {
        match self {
            Self::HttpsWeb => "https_web",
            Self::HttpsSpiffe => "https_spiffe",
        }
    }
}

/// What a gateway makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The refresh fails with exactly this text. `<url>` stands for the relationship's URL, `…` for whatever differs
    /// from case to case. docs/partner-errors.md shows it.
    Refused(&'static str),
    /// The bundle is accepted.
    Accepted,
}

/// One misbehaviour.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// What the partner does.
    pub misbehaviour: Misbehaviour,
    /// How its endpoint proves itself.
    pub profile: Profile,
    /// What comes of it.
    pub outcome: Outcome,
}

impl Row {
    /// The name of the partner's trust domain, made of the misbehaviour and the profile.
    pub fn trust_domain(&self) -> String {
        let word = format!("{:?}{:?}", self.misbehaviour, self.profile);
        let mut name = String::new();
        for letter in word.chars() {
            match letter {
                '(' | ')' => {}
                _ if letter.is_ascii_uppercase() && !name.is_empty() => {
                    let _ = write!(name, "-{}", letter.to_ascii_lowercase());
                }
                _ => name.push(letter.to_ascii_lowercase()),
            }
        }
        name + ".example"
    }
}

/// Whether `text` is what `pattern` says, with `url` for `<url>` and anything for each `…`.
pub fn matches(pattern: &str, url: &str, text: &str) -> bool {
    let pattern = pattern.replace("<url>", url);
    let mut parts = pattern.split('…');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.is_empty()
}

const fn refused(misbehaviour: Misbehaviour, profile: Profile, error: &'static str) -> Row {
    Row { misbehaviour, profile, outcome: Outcome::Refused(error) }
}

const fn accepted(document: Document) -> Row {
    Row { misbehaviour: Misbehaviour::Document(document), profile: Profile::HttpsWeb, outcome: Outcome::Accepted }
}

use Misbehaviour::{Certificate as Cert, Connection as Conn, Document as Doc, Http2 as H2, Response as Resp};
use Profile::{HttpsSpiffe as SPIFFE, HttpsWeb as WEB};

/// All of them.
pub const ROWS: &[Row] = &[
    refused(Conn(Connection::IsRefused), WEB, "cannot connect to <url>: Connection refused (os error 111); check the host name, the port and the network between"),
    refused(Conn(Connection::HasNoAddress), WEB, "cannot connect to <url>: failed to lookup address information: …; check the host name, the port and the network between"),
    refused(Conn(Connection::IsClosedAtOnce), WEB, "cannot connect to <url>: ?; check the host name, the port and the network between"),
    refused(Conn(Connection::IsClosedInHandshake), SPIFFE, "cannot connect to <url>: ?; check the host name, the port and the network between"),
    refused(Conn(Connection::IsReset), WEB, "cannot connect to <url>: Connection reset by peer (os error 104); check the host name, the port and the network between"),
    refused(Conn(Connection::StaysSilent), WEB, "<url> did not answer within …; check that the server is up, or raise the timeout"),
    refused(Conn(Connection::DripsHandshake), SPIFFE, "<url> did not answer within …; check that the server is up, or raise the timeout"),
    refused(Conn(Connection::IsPlainHttp), WEB, "cannot connect to <url>: ?; check the host name, the port and the network between"),
    refused(Conn(Connection::IsSsh), SPIFFE, "cannot connect to <url>: ?; check the host name, the port and the network between"),
    refused(Conn(Connection::IsGarbage), WEB, "cannot connect to <url>: ?; check the host name, the port and the network between"),
    refused(Conn(Connection::SendsHugeRecord), WEB, "cannot connect to <url>: ?; check the host name, the port and the network between"),
    refused(Conn(Connection::IsTls10), SPIFFE, "cannot connect to <url>: ?; check the host name, the port and the network between"),
    refused(Conn(Connection::RefusesHandshake), WEB, "cannot connect to <url>: ?; check the host name, the port and the network between"),
    refused(Conn(Connection::KnowsNoCommonVersion), WEB, "cannot connect to <url>: ?; check the host name, the port and the network between"),
    refused(Cert(Certificate::IsExpired), WEB, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::IsExpired), SPIFFE, "<url> was not trusted: certificate expired at …; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::IsNotYetValid), WEB, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::IsNotYetValid), SPIFFE, "<url> was not trusted: certificate is not valid before …; check the clocks; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::IsOfUnknownAuthority), WEB, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::IsOfUnknownAuthority), SPIFFE, "<url> was not trusted: certificate is not signed by an authority of its trust domain; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::IsForAnotherHost), WEB, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::IsSelfSigned), WEB, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::IsAnSvid), WEB, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::IsOfTheWeb), SPIFFE, "<url> was not trusted: leaf certificate has no URI SAN; an X509-SVID has exactly one; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::HasAnotherPath), SPIFFE, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::IsOfAnotherDomain), SPIFFE, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::IsSignedByAnotherDomain), SPIFFE, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::HasTwoIds), SPIFFE, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::HasNoPath), SPIFFE, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::IsCa), SPIFFE, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::MaySign), SPIFFE, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::HasLongChain), SPIFFE, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::HasEndlessChain), SPIFFE, "<url> was not trusted: ?; check the profile, the endpoint SPIFFE ID or the CA configured for it"),
    refused(Cert(Certificate::DemandsAnother), WEB, "fetching <url> failed: ?"),
    refused(Cert(Certificate::DemandsAnotherInTls12), WEB, "fetching <url> failed: ?"),
    refused(Cert(Certificate::ComesWithoutHttp), WEB, "cannot connect to <url>: ?; check the host name, the port and the network between"),
    refused(Resp(Response::NeverComes), WEB, "<url> did not answer within …; check that the server is up, or raise the timeout"),
    refused(Resp(Response::DripsBody), WEB, "<url> did not answer within …; check that the server is up, or raise the timeout"),
    refused(Resp(Response::DripsHeaders), WEB, "<url> did not answer within …; check that the server is up, or raise the timeout"),
    refused(Resp(Response::IsContinueForEver), WEB, "<url> did not answer within …; check that the server is up, or raise the timeout"),
    refused(Resp(Response::NeverComes), SPIFFE, "<url> did not answer within …; check that the server is up, or raise the timeout"),
    refused(Resp(Response::IsNoneAtAll), WEB, "fetching <url> failed: ?"),
    refused(Resp(Response::HasEndlessHeaders), WEB, "fetching <url> failed: ?"),
    refused(Resp(Response::HasHugeHeader), WEB, "fetching <url> failed: ?"),
    refused(Resp(Response::IsHttp09), WEB, "fetching <url> failed: ?"),
    refused(Resp(Response::HasEndlessBody), WEB, "<url> sent more than … bytes, the most accepted; is it the right URL?"),
    refused(Resp(Response::HasEndlessBody), SPIFFE, "<url> sent more than … bytes, the most accepted; is it the right URL?"),
    refused(Resp(Response::HasHugeLength), WEB, "<url> sent more than … bytes, the most accepted; is it the right URL?"),
    refused(Resp(Response::HasImpossibleLength), WEB, "fetching <url> failed: ?"),
    refused(Resp(Response::HasTwoLengths), WEB, "fetching <url> failed: ?"),
    refused(Resp(Response::IsTruncated), WEB, "fetching <url> failed: ?"),
    refused(Resp(Response::IsResetInBody), WEB, "fetching <url> failed: ?"),
    refused(Resp(Response::LacksLastChunk), WEB, "fetching <url> failed: ?"),
    refused(Resp(Response::HasBrokenChunk), WEB, "fetching <url> failed: ?"),
    refused(Resp(Response::IsGzipBomb), WEB, "<url> sent content-encoding `gzip`, which was not asked for"),
    refused(Resp(Response::IsBrotli), WEB, "<url> sent content-encoding `br`, which was not asked for"),
    refused(Resp(Response::IsEmpty), WEB, "<url> answered 204 No Content; check the path of the URL and the server's log"),
    refused(Resp(Response::IsPartial), WEB, "<url> answered 206 Partial Content; check the path of the URL and the server's log"),
    refused(Resp(Response::IsUnaskedNotModified), WEB, "<url> answered 304 Not Modified; check the path of the URL and the server's log"),
    refused(Resp(Response::IsUnauthorized), WEB, "<url> answered 401 Unauthorized; check the path of the URL and the server's log"),
    refused(Resp(Response::IsNotFound), WEB, "<url> answered 404 Not Found; check the path of the URL and the server's log"),
    refused(Resp(Response::IsTooManyRequests), WEB, "<url> answered 429 Too Many Requests; check the path of the URL and the server's log"),
    refused(Resp(Response::IsServerError), WEB, "<url> answered 500 Internal Server Error; check the path of the URL and the server's log"),
    refused(Resp(Response::SwitchesProtocols), WEB, "<url> answered 101 Switching Protocols; check the path of the URL and the server's log"),
    refused(Resp(Response::RedirectsInCircle), WEB, "<url> redirects more than 5 times; configure the URL it should end at"),
    refused(Resp(Response::RedirectsOn), SPIFFE, "<url> redirects more than 5 times; configure the URL it should end at"),
    refused(Resp(Response::RedirectsSlowly), WEB, "<url> did not answer within …; check that the server is up, or raise the timeout"),
    refused(Resp(Response::RedirectsToHttp), WEB, "<url> redirects to `http://localhost/bundle`, which is refused: only https is allowed"),
    refused(Resp(Response::RedirectsToFile), SPIFFE, "<url> redirects to `file:///etc/passwd`, which is refused: only https is allowed"),
    refused(Resp(Response::RedirectsNowhere), WEB, "<url> redirects to ``, which is refused: it names no location"),
    refused(Resp(Response::RedirectsToNonsense), WEB, "<url> redirects to `https://[::1/bundle`, which is refused: it is not a URL"),
    refused(Resp(Response::RedirectsWithPassword), WEB, "<url> redirects to `https://root:toor@localhost/bundle`, which is refused: it carries a user name or password"),
    refused(Resp(Response::RedirectsToStranger), WEB, "?"),
    refused(Resp(Response::RedirectsToStranger), SPIFFE, "?"),
    refused(H2(Http2::StaysSilent), WEB, "<url> did not answer within …; check that the server is up, or raise the timeout"),
    refused(H2(Http2::NeverAnswers), SPIFFE, "<url> did not answer within …; check that the server is up, or raise the timeout"),
    refused(H2(Http2::PingsForEver), WEB, "<url> did not answer within …; check that the server is up, or raise the timeout"),
    refused(H2(Http2::GoesAwayAtOnce), WEB, "fetching <url> failed: ?"),
    refused(H2(Http2::GoesAway), WEB, "fetching <url> failed: ?"),
    refused(H2(Http2::SpeaksHttp1), WEB, "fetching <url> failed: ?"),
    refused(H2(Http2::SpeaksGarbage), WEB, "fetching <url> failed: ?"),
    refused(H2(Http2::SendsHugeFrame), WEB, "fetching <url> failed: ?"),
    refused(H2(Http2::ResetsStream), WEB, "fetching <url> failed: ?"),
    refused(H2(Http2::ResetsInBody), WEB, "fetching <url> failed: ?"),
    refused(H2(Http2::SendsEndlessHeaders), WEB, "fetching <url> failed: ?"),
    refused(H2(Http2::SendsBrokenHeaders), WEB, "fetching <url> failed: ?"),
    refused(H2(Http2::SendsEndlessBody), WEB, "<url> sent more than … bytes, the most accepted; is it the right URL?"),
    refused(Doc(Document::IsEmpty), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::IsText), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::IsHtml), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::IsPem), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::IsUnannouncedGzip), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::IsNotUtf8), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::HasByteOrderMark), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::HasMoreBehind), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::IsArray), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::IsNull), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::HasKeysTwice), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::HasMemberTwice), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::IsDeep), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::HasImpossibleNumber), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle is not acceptable JSON: ?; the partner has to correct it"),
    refused(Doc(Document::LacksKeys), SPIFFE, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle has no `keys`; a SPIFFE bundle must have it, empty or not; the partner has to correct it"),
    refused(Doc(Document::HasNullKeys), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: `keys` of the bundle must be an array of objects; the partner has to correct it"),
    refused(Doc(Document::HasKeysObject), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: `keys` of the bundle must be an array of objects; the partner has to correct it"),
    refused(Doc(Document::HasTextKeys), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: `keys` of the bundle must be an array of objects; the partner has to correct it"),
    refused(Doc(Document::HasTooManyKeys), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: bundle has more than 4096 keys; the partner has to correct it"),
    refused(Doc(Document::HasUnknownUsesOnly), WEB, "?"),
    refused(Doc(Document::HasUnknownTypesOnly), WEB, "?"),
    refused(Doc(Document::LacksUses), WEB, "?"),
    refused(Doc(Document::LacksCertificate), WEB, "?"),
    refused(Doc(Document::HasTwoCertificatesInOne), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: key 0 of the bundle: ?; the partner has to correct it"),
    refused(Doc(Document::HasGarbageCertificate), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: key 0 of the bundle: ?; the partner has to correct it"),
    refused(Doc(Document::HasUndecodableCertificate), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: key 0 of the bundle: ?; the partner has to correct it"),
    refused(Doc(Document::HasCertificateOfOtherKey), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: key 0 of the bundle: ?; the partner has to correct it"),
    refused(Doc(Document::HasHugeCertificate), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: key 0 of the bundle: ?; the partner has to correct it"),
    refused(Doc(Document::HasExpiredRoot), WEB, "?"),
    refused(Doc(Document::HasFutureRoot), WEB, "?"),
    refused(Doc(Document::HasWeakRoot), WEB, "?"),
    refused(Doc(Document::HasLeafAsRoot), WEB, "?"),
    refused(Doc(Document::LacksKeyId), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: key 1 of the bundle: ?; the partner has to correct it"),
    refused(Doc(Document::HasKeyIdTwice), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: key 1 of the bundle: ?; the partner has to correct it"),
    refused(Doc(Document::HasLongKeyId), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: key 1 of the bundle: ?; the partner has to correct it"),
    refused(Doc(Document::HasPointOffCurve), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: key 1 of the bundle: ?; the partner has to correct it"),
    refused(Doc(Document::LacksCoordinate), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: key 1 of the bundle: ?; the partner has to correct it"),
    refused(Doc(Document::HasPrivateKey), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: key 1 of the bundle: ?; the partner has to correct it"),
    refused(Doc(Document::HasNegativeHint), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: `spiffe_refresh_hint` of the bundle must be an integer from 0 to 2^64 - 1; the partner has to correct it"),
    refused(Doc(Document::HasTextHint), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: `spiffe_refresh_hint` of the bundle must be an integer from 0 to 2^64 - 1; the partner has to correct it"),
    refused(Doc(Document::HasFractionalSequence), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: `spiffe_sequence` of the bundle must be an integer from 0 to 2^64 - 1; the partner has to correct it"),
    refused(Doc(Document::HasTextSequence), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: `spiffe_sequence` of the bundle must be an integer from 0 to 2^64 - 1; the partner has to correct it"),
    refused(Doc(Document::HasNegativeSequence), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: `spiffe_sequence` of the bundle must be an integer from 0 to 2^64 - 1; the partner has to correct it"),
    refused(Doc(Document::HasImpossibleSequence), WEB, "the endpoint's answer is not an acceptable SPIFFE bundle: `spiffe_sequence` of the bundle must be an integer from 0 to 2^64 - 1; the partner has to correct it"),
    refused(Doc(Document::IsRolledBack), WEB, "?"),
    refused(Doc(Document::IsRolledBack), SPIFFE, "?"),
    refused(Doc(Document::IsEmptied), WEB, "?"),
    refused(Doc(Document::IsEmptied), SPIFFE, "?"),
    accepted(Document::HasHugeHint),
    accepted(Document::HasHugeSequence),
    accepted(Document::LacksNumbers),
    accepted(Document::HasUnknownMembers),
    accepted(Document::HasKeysOfTheFuture),
    accepted(Document::HasExpiredRootToo),
    accepted(Document::HasCertificateChain),
    accepted(Document::RepeatsKey),
    accepted(Document::IsSaidToBeHtml),
];
