//! Every misbehaviour with the words a gateway must find for it.

use Misbehaviour::{
    Certificate as Cert, Connection as Conn, Document as Doc, Http2 as H2, Name as Dns, Response as Resp,
};
use Profile::{HttpsSpiffe as SPIFFE, HttpsWeb as WEB};

use super::{
    certificate::Certificate,
    connection::Connection,
    dns::Name,
    document::Document,
    http2::Http2,
    response::Response,
    table::{Misbehaviour, Outcome, Profile, Row},
};

const fn refused(misbehaviour: Misbehaviour, profile: Profile, error: &'static str) -> Row {
    Row { misbehaviour, profile, outcome: Outcome::Refused(error) }
}

const fn accepted(document: Document) -> Row {
    Row { misbehaviour: Misbehaviour::Document(document), profile: Profile::HttpsWeb, outcome: Outcome::Accepted }
}

macro_rules! connecting {
    ($reason:literal) => {
        concat!("cannot connect to <url>: ", $reason, "; check the host name, the port and the network between")
    };
}

macro_rules! lookup {
    ($reason:literal) => {
        concat!(
            "cannot look up the host of <url>: ",
            $reason,
            "; check the name in the URL, then the name servers of this machine (or refresh.nameservers)"
        )
    };
}

macro_rules! special {
    ($url:literal, $address:literal, $kind:literal) => {
        concat!(
            $url,
            " leads to ",
            $address,
            ", ",
            $kind,
            " address, which is not asked unless it is allowed; if the partner is meant to be there, add ",
            $address,
            " or its network to refresh.allow_addresses, or to allow_addresses of the relationship"
        )
    };
}

macro_rules! handshake {
    ($reason:literal) => {
        concat!(
            "the TLS handshake with <url> failed: ",
            $reason,
            "; check the host name and the port, or ask its operator"
        )
    };
}

macro_rules! untrusted {
    ($reason:literal) => {
        concat!(
            "<url> was not trusted: ",
            $reason,
            "; check the profile, the endpoint SPIFFE ID or the CA configured for it"
        )
    };
}

macro_rules! redirected_to_stranger {
    ($url:literal, $reason:literal) => {
        concat!(
            "<url> redirects: ",
            $url,
            " was not trusted: ",
            $reason,
            "; check the profile, the endpoint SPIFFE ID or the CA configured for it"
        )
    };
}

macro_rules! fetching {
    ($reason:literal) => {
        concat!("fetching <url> failed: ", $reason, "; ask its operator to look at it")
    };
}

macro_rules! status {
    ($status:literal) => {
        concat!("<url> answered ", $status, "; check the path of the URL and the server's log")
    };
}

macro_rules! redirect {
    ($location:literal, $reason:literal) => {
        concat!("<url> redirects to `", $location, "`, which is refused: ", $reason)
    };
}

macro_rules! document {
    ($reason:literal) => {
        concat!(
            "the endpoint's answer is not an acceptable SPIFFE bundle: ",
            $reason,
            "; the partner has to correct it"
        )
    };
}

macro_rules! no_known_key {
    ($count:literal, $reason:literal) => {
        concat!(
            "none of the ",
            $count,
            " keys of the partner's bundle can be used here (",
            $reason,
            "); ask the partner for keys of kinds known here, or upgrade this gateway"
        )
    };
}

const TIMEOUT: &str = "<url> did not answer within …; check that the server is up, or raise the timeout";
const TOO_LARGE: &str = "<url> sent more than … bytes, the most accepted; is it the right URL?";
const TOO_MANY_REDIRECTS: &str = "<url> redirects more than 5 times; configure the URL it should end at";
const ROLLED_BACK: &str = "the partner's bundle went back from sequence 5 to 4; refused as a rollback, the bundle held \
                           stays in force. If the partner was rebuilt, refresh once with accept_rollback";
const EMPTIED: &str = "the partner's bundle has no keys any more, which revokes all trust in it; held back, the bundle \
                       held stays in force. If this is intended, approve it, refresh once with accept_emptied or \
                       remove the relationship";

/// All of them.
pub const ROWS: &[Row] = &[
    refused(Conn(Connection::IsRefused), WEB, connecting!("Connection refused (os error 111)")),
    refused(Conn(Connection::HasNoAddress), WEB, lookup!("there is no such name (NXDOMAIN)")),
    refused(Dns(Name::LeadsToPrivate), SPIFFE, special!("<url>", "10.0.0.1", "a private")),
    refused(Dns(Name::LeadsToLoopback), SPIFFE, special!("<url>", "127.0.0.66", "a loopback")),
    refused(Dns(Name::LeadsToMetadata), SPIFFE, special!("<url>", "169.254.169.254", "a link-local")),
    refused(Dns(Name::LeadsToLoopback6), SPIFFE, special!("<url>", "::1", "a loopback")),
    refused(Dns(Name::LeadsToMapped), SPIFFE, special!("<url>", "::ffff:127.0.0.66", "a loopback")),
    refused(Dns(Name::IsAliasOfPrivate), SPIFFE, special!("<url>", "10.0.0.1", "a private")),
    refused(Dns(Name::Rebinds), SPIFFE, special!("<url>", "127.0.0.66", "a loopback")),
    refused(Dns(Name::HasManyAddresses), SPIFFE, special!("<url>", "10.0.…", "a private")),
    refused(Dns(Name::IsGone), SPIFFE, lookup!("there is no such name (NXDOMAIN)")),
    refused(Dns(Name::IsBroken), SPIFFE, lookup!("the name server answers SERVFAIL")),
    refused(Dns(Name::IsSilent), SPIFFE, lookup!("no name server answers")),
    refused(Dns(Name::IsGarbage), SPIFFE, lookup!("no name server answers")),
    Row { misbehaviour: Dns(Name::IsMixed), profile: SPIFFE, outcome: Outcome::Accepted },
    refused(Conn(Connection::IsClosedAtOnce), WEB, handshake!("the server closed the connection before its end")),
    refused(
        Conn(Connection::IsClosedInHandshake),
        SPIFFE,
        handshake!("the server closed the connection before its end"),
    ),
    refused(Conn(Connection::IsReset), WEB, connecting!("Connection reset by peer (os error 104)")),
    refused(Conn(Connection::StaysSilent), WEB, TIMEOUT),
    refused(Conn(Connection::DripsHandshake), SPIFFE, TIMEOUT),
    refused(Conn(Connection::IsPlainHttp), WEB, handshake!("what listens on that port does not speak TLS")),
    refused(Conn(Connection::IsSsh), SPIFFE, handshake!("what listens on that port does not speak TLS")),
    refused(Conn(Connection::IsGarbage), WEB, handshake!("what listens on that port does not speak TLS")),
    refused(
        Conn(Connection::SendsHugeRecord),
        WEB,
        handshake!("the server sends what is not proper TLS (MessageTooLarge)"),
    ),
    refused(Conn(Connection::IsTls10), SPIFFE, handshake!("the server speaks neither TLS 1.2 nor TLS 1.3")),
    refused(Conn(Connection::KnowsNoCommonVersion), WEB, handshake!("the server speaks neither TLS 1.2 nor TLS 1.3")),
    refused(Conn(Connection::RefusesHandshake), WEB, handshake!("the server refused it (HandshakeFailure)")),
    refused(Cert(Certificate::IsExpired), WEB, untrusted!("its certificate expired at …")),
    refused(Cert(Certificate::IsExpired), SPIFFE, untrusted!("certificate expired at …")),
    refused(
        Cert(Certificate::IsNotYetValid),
        WEB,
        untrusted!("its certificate is not valid yet, it begins at …; check the clocks"),
    ),
    refused(
        Cert(Certificate::IsNotYetValid),
        SPIFFE,
        untrusted!("certificate is not valid before …; check the clocks"),
    ),
    refused(
        Cert(Certificate::IsForged),
        WEB,
        untrusted!("its certificate names a trusted CA but is not signed with the key of that CA"),
    ),
    refused(Cert(Certificate::IsForged), SPIFFE, untrusted!("certificate signature is invalid")),
    refused(
        Cert(Certificate::IsForAnotherHost),
        WEB,
        untrusted!(
            "certificate not valid for name \"localhost\"; certificate is only valid for DnsName(\"elsewhere.example\")"
        ),
    ),
    refused(Cert(Certificate::IsSelfSigned), WEB, untrusted!("its certificate is not signed by a CA trusted for it")),
    refused(Cert(Certificate::IsAnSvid), WEB, untrusted!("its certificate is not signed by a CA trusted for it")),
    refused(
        Cert(Certificate::IsOfTheWeb),
        SPIFFE,
        untrusted!("leaf certificate has no URI SAN; an X509-SVID has exactly one"),
    ),
    refused(
        Cert(Certificate::HasAnotherPath),
        SPIFFE,
        untrusted!("the peer presents …, which is not expected here (expected …)"),
    ),
    refused(
        Cert(Certificate::IsOfAnotherDomain),
        SPIFFE,
        untrusted!("the peer presents an X509-SVID of stranger.example, which is not expected here"),
    ),
    refused(
        Cert(Certificate::IsSignedByAnotherDomain),
        SPIFFE,
        untrusted!("certificate is not signed by an authority of its trust domain"),
    ),
    refused(
        Cert(Certificate::HasTwoIds),
        SPIFFE,
        untrusted!("leaf certificate has more than one URI SAN; an X509-SVID has exactly one"),
    ),
    refused(
        Cert(Certificate::HasNoPath),
        SPIFFE,
        untrusted!("leaf certificate has the SPIFFE ID of a trust domain; an X509-SVID's ID has a path"),
    ),
    refused(
        Cert(Certificate::IsCa),
        SPIFFE,
        untrusted!("leaf certificate has the CA flag set; a signing certificate cannot identify a peer"),
    ),
    refused(Cert(Certificate::MaySign), SPIFFE, untrusted!("leaf certificate has key usage keyCertSign set")),
    refused(Cert(Certificate::HasLongChain), SPIFFE, untrusted!("X509-SVID has more than 16 certificates")),
    refused(
        Cert(Certificate::HasEndlessChain),
        SPIFFE,
        handshake!("the server sends more certificates than a handshake may carry"),
    ),
    refused(
        Cert(Certificate::DemandsAnother),
        WEB,
        handshake!("the server demands a client certificate, which a public endpoint must not do"),
    ),
    refused(
        Cert(Certificate::DemandsAnotherInTls12),
        WEB,
        handshake!("the server demands a client certificate, which a public endpoint must not do"),
    ),
    refused(Cert(Certificate::ComesWithoutHttp), WEB, handshake!("the server speaks neither HTTP/1.1 nor HTTP/2")),
    refused(Resp(Response::NeverComes), WEB, TIMEOUT),
    refused(Resp(Response::DripsBody), WEB, TIMEOUT),
    refused(Resp(Response::DripsHeaders), WEB, TIMEOUT),
    refused(Resp(Response::IsContinueForEver), WEB, TIMEOUT),
    refused(Resp(Response::NeverComes), SPIFFE, TIMEOUT),
    refused(Resp(Response::IsNoneAtAll), WEB, fetching!("connection closed before message completed")),
    refused(Resp(Response::HasEndlessHeaders), WEB, fetching!("message head is too large")),
    refused(Resp(Response::HasHugeHeader), SPIFFE, fetching!("message head is too large")),
    refused(Resp(Response::IsHttp09), WEB, fetching!("invalid HTTP version parsed")),
    refused(Resp(Response::HasEndlessBody), WEB, TOO_LARGE),
    refused(Resp(Response::HasEndlessBody), SPIFFE, TOO_LARGE),
    refused(Resp(Response::HasHugeLength), WEB, TOO_LARGE),
    refused(Resp(Response::HasImpossibleLength), WEB, fetching!("invalid content-length parsed")),
    refused(Resp(Response::HasTwoLengths), WEB, fetching!("invalid content-length parsed")),
    refused(Resp(Response::IsTruncated), WEB, fetching!("end of file before message length reached")),
    refused(Resp(Response::IsResetInBody), WEB, fetching!("Connection reset by peer (os error 104)")),
    refused(Resp(Response::LacksLastChunk), WEB, fetching!("unexpected EOF during chunk size line")),
    refused(Resp(Response::HasBrokenChunk), WEB, fetching!("Invalid chunk size line: missing size digit")),
    refused(Resp(Response::IsGzipBomb), WEB, "<url> sent content-encoding `gzip`, which was not asked for"),
    refused(Resp(Response::IsBrotli), SPIFFE, "<url> sent content-encoding `br`, which was not asked for"),
    refused(Resp(Response::IsEmpty), WEB, status!("204 No Content")),
    refused(Resp(Response::IsPartial), WEB, status!("206 Partial Content")),
    refused(Resp(Response::IsUnaskedNotModified), WEB, status!("304 Not Modified")),
    refused(Resp(Response::IsUnauthorized), WEB, status!("401 Unauthorized")),
    refused(Resp(Response::IsNotFound), SPIFFE, status!("404 Not Found")),
    refused(Resp(Response::IsTooManyRequests), WEB, status!("429 Too Many Requests")),
    refused(Resp(Response::IsServerError), SPIFFE, status!("500 Internal Server Error")),
    refused(Resp(Response::SwitchesProtocols), WEB, status!("101 Switching Protocols")),
    refused(Resp(Response::RedirectsInCircle), WEB, TOO_MANY_REDIRECTS),
    refused(Resp(Response::RedirectsOn), SPIFFE, TOO_MANY_REDIRECTS),
    refused(Resp(Response::RedirectsSlowly), WEB, TIMEOUT),
    refused(Resp(Response::RedirectsToHttp), WEB, redirect!("http://localhost/bundle", "only https is allowed")),
    refused(Resp(Response::RedirectsToFile), SPIFFE, redirect!("file:///etc/passwd", "only https is allowed")),
    refused(Resp(Response::RedirectsNowhere), WEB, redirect!("", "it names no location")),
    refused(Resp(Response::RedirectsToNonsense), WEB, redirect!("https://[::1/bundle", "it is not a URL")),
    refused(
        Resp(Response::RedirectsWithPassword),
        WEB,
        redirect!("https://localhost/bundle", "it carries a user name or password"),
    ),
    refused(
        Resp(Response::RedirectsToStranger),
        WEB,
        redirected_to_stranger!(
            "https://localhost:…/bundle",
            "certificate not valid for name \"localhost\"; certificate is only valid for DnsName(\"elsewhere.example\")"
        ),
    ),
    refused(
        Resp(Response::RedirectsToStranger),
        SPIFFE,
        redirected_to_stranger!(
            "https://127.0.0.1:…/bundle",
            "the peer presents an X509-SVID of stranger.example, which is not expected here"
        ),
    ),
    refused(
        Resp(Response::RedirectsToPrivate),
        WEB,
        special!("<url> redirects: https://10.0.0.1/bundle", "10.0.0.1", "a private"),
    ),
    refused(
        Resp(Response::RedirectsToMetadata),
        WEB,
        special!("<url> redirects: https://169.254.169.254/latest/meta-data/", "169.254.169.254", "a link-local"),
    ),
    refused(
        Resp(Response::RedirectsToMapped),
        SPIFFE,
        special!("<url> redirects: https://[::ffff:7f00:42]/bundle", "::ffff:127.0.0.66", "a loopback"),
    ),
    refused(
        Resp(Response::RedirectsToLoopbackByName),
        SPIFFE,
        special!("<url> redirects: https://trap.names.example/bundle", "127.0.0.66", "a loopback"),
    ),
    refused(H2(Http2::StaysSilent), WEB, TIMEOUT),
    refused(H2(Http2::NeverAnswers), SPIFFE, TIMEOUT),
    refused(H2(Http2::PingsForEver), WEB, TIMEOUT),
    refused(
        H2(Http2::GoesAwayAtOnce),
        WEB,
        fetching!("connection error received: detected excessive load generating behavior"),
    ),
    refused(
        H2(Http2::GoesAway),
        SPIFFE,
        fetching!("connection error received: detected excessive load generating behavior"),
    ),
    refused(H2(Http2::SpeaksHttp1), WEB, fetching!("connection error detected: frame with invalid size")),
    refused(H2(Http2::SpeaksGarbage), WEB, fetching!("connection error detected: frame with invalid size")),
    refused(H2(Http2::SendsHugeFrame), WEB, fetching!("connection error detected: frame with invalid size")),
    refused(
        H2(Http2::ResetsStream),
        WEB,
        fetching!("stream error received: detected excessive load generating behavior"),
    ),
    refused(
        H2(Http2::ResetsInBody),
        WEB,
        fetching!("stream error received: detected excessive load generating behavior"),
    ),
    refused(
        H2(Http2::SendsEndlessHeaders),
        WEB,
        fetching!(
            "connection error detected: detected excessive load generating behavior (b\"too_many_continuations\")"
        ),
    ),
    refused(
        H2(Http2::SendsBrokenHeaders),
        WEB,
        fetching!("connection error detected: unspecific protocol error detected"),
    ),
    refused(H2(Http2::SendsHugeBody), WEB, TOO_LARGE),
    refused(Doc(Document::IsEmpty), WEB, document!("bundle is empty")),
    refused(
        Doc(Document::IsText),
        WEB,
        document!("bundle is not acceptable JSON: it begins with `no such bundle` instead of an object"),
    ),
    refused(
        Doc(Document::IsHtml),
        WEB,
        document!(
            "bundle is not acceptable JSON: it begins with `<!DOCTYPE html><html><body>Please log in` instead of an object"
        ),
    ),
    refused(
        Doc(Document::IsPem),
        WEB,
        document!(
            "bundle is not acceptable JSON: it begins with `-----BEGIN CERTIFICATE-----\\nMIIB\\n-----EN` instead of an object"
        ),
    ),
    refused(
        Doc(Document::IsUnannouncedGzip),
        WEB,
        document!("bundle is not acceptable JSON: it begins with `\\x1f\\x8b…` instead of an object"),
    ),
    refused(
        Doc(Document::HasByteOrderMark),
        WEB,
        document!("bundle is not acceptable JSON: it begins with `\\xef\\xbb\\xbf{…` instead of an object"),
    ),
    refused(
        Doc(Document::IsArray),
        WEB,
        document!("bundle is not acceptable JSON: it begins with `[]` instead of an object"),
    ),
    refused(
        Doc(Document::IsNull),
        WEB,
        document!("bundle is not acceptable JSON: it begins with `null` instead of an object"),
    ),
    refused(
        Doc(Document::IsNotUtf8),
        WEB,
        document!("bundle is not acceptable JSON: invalid unicode code point at line 1 column 12"),
    ),
    refused(
        Doc(Document::HasMoreBehind),
        WEB,
        document!("bundle is not acceptable JSON: trailing characters at line 1 column …"),
    ),
    refused(
        Doc(Document::HasKeysTwice),
        WEB,
        document!("bundle is not acceptable JSON: member name \"keys\" appears twice at line 1 column 17"),
    ),
    refused(
        Doc(Document::HasMemberTwice),
        WEB,
        document!("bundle is not acceptable JSON: member name \"use\" appears twice at line 1 column 27"),
    ),
    refused(
        Doc(Document::IsDeep),
        WEB,
        document!("bundle is not acceptable JSON: nested too deeply at line 1 column 24"),
    ),
    refused(
        Doc(Document::HasImpossibleNumber),
        WEB,
        document!("bundle is not acceptable JSON: number out of range at line 1 column 15"),
    ),
    refused(
        Doc(Document::LacksKeys),
        SPIFFE,
        document!("bundle has no `keys`; a SPIFFE bundle must have it, empty or not"),
    ),
    refused(Doc(Document::HasNullKeys), WEB, document!("`keys` of the bundle must be an array of objects")),
    refused(Doc(Document::HasKeysObject), WEB, document!("`keys` of the bundle must be an array of objects")),
    refused(Doc(Document::HasTextKeys), WEB, document!("`keys` of the bundle must be an array of objects")),
    refused(Doc(Document::HasTooManyKeys), WEB, document!("bundle has more than 4096 keys")),
    refused(Doc(Document::HasUnknownUsesOnly), WEB, no_known_key!(2, "key 0: unknown `use` \"tomorrow-svid\"")),
    refused(
        Doc(Document::HasUnknownTypesOnly),
        WEB,
        no_known_key!(2, "key 0: public key type AKP is not supported; use RSA, EC P-256, P-384, P-521 or Ed25519"),
    ),
    refused(Doc(Document::LacksUses), WEB, no_known_key!(2, "key 0: no `use`")),
    refused(Doc(Document::LacksCertificate), WEB, no_known_key!(1, "key 0: no certificate in `x5c`")),
    refused(
        Doc(Document::HasWeakRoot),
        WEB,
        no_known_key!(1, "key 0: RSA key has 1024 bits; it must have 2048 to 8192"),
    ),
    refused(
        Doc(Document::HasTwoCertificatesInOne),
        WEB,
        document!("key 0 of the bundle: exactly one certificate is expected and more bytes follow it"),
    ),
    refused(Doc(Document::HasGarbageCertificate), WEB, document!("key 0 of the bundle: x509: malformed certificate")),
    refused(
        Doc(Document::HasUndecodableCertificate),
        WEB,
        document!("key 0 of the bundle: `x5c` must be an array with one base64 DER certificate"),
    ),
    refused(
        Doc(Document::HasCertificateOfOtherKey),
        WEB,
        document!("key 0 of the bundle: the certificate in `x5c` is for another key than the JWK"),
    ),
    refused(
        Doc(Document::HasHugeCertificate),
        WEB,
        document!("key 0 of the bundle: certificate is longer than 65536 bytes"),
    ),
    refused(
        Doc(Document::HasExpiredRoot),
        SPIFFE,
        "none of the partner's 1 X.509 authorities is valid now: the last one expired at …; the partner has to correct it",
    ),
    refused(
        Doc(Document::HasFutureRoot),
        WEB,
        "none of the partner's 1 X.509 authorities is valid now: the first becomes valid at …; the partner has to correct it",
    ),
    refused(
        Doc(Document::HasLeafAsRoot),
        WEB,
        "no X.509 authority of the partner's bundle may sign certificates; the partner has to publish the certificates of its authorities, not those of servers",
    ),
    refused(
        Doc(Document::HasRootOfAnotherDomain),
        WEB,
        "X.509 authority … of the partner's bundle is also a key of trust domain `good-0.example`: whoever holds it could speak for both, so it is refused; each trust domain needs keys of its own",
    ),
    refused(
        Doc(Document::HasJwtKeyOfAnotherDomain),
        WEB,
        "JWT authority `first` of the partner's bundle is also a key of trust domain `good-0.example`, and no certificate proves whose it is; held back, the bundle held stays in force. Ask both whose key it is, then approve or reject the bundle",
    ),
    refused(
        Doc(Document::LacksKeyId),
        WEB,
        document!("key 1 of the bundle: `kid` is missing or empty; keys that sign tokens must have it"),
    ),
    refused(
        Doc(Document::HasKeyIdTwice),
        WEB,
        document!("key 2 of the bundle: `kid` \"first\" names two different keys"),
    ),
    refused(Doc(Document::HasLongKeyId), WEB, document!("key 1 of the bundle: key ID is longer than 1024 bytes")),
    refused(
        Doc(Document::HasPointOffCurve),
        WEB,
        document!("key 1 of the bundle: public key value is not valid for its type"),
    ),
    refused(
        Doc(Document::LacksCoordinate),
        WEB,
        document!("key 1 of the bundle: JWK member `y` is missing or malformed"),
    ),
    refused(
        Doc(Document::HasPrivateKey),
        WEB,
        document!("key 1 of the bundle: JWK holds a private key; publish the public members only"),
    ),
    refused(
        Doc(Document::HasNegativeHint),
        WEB,
        document!("`spiffe_refresh_hint` of the bundle must be an integer from 0 to 2^64 - 1"),
    ),
    refused(
        Doc(Document::HasTextHint),
        WEB,
        document!("`spiffe_refresh_hint` of the bundle must be an integer from 0 to 2^64 - 1"),
    ),
    refused(
        Doc(Document::HasFractionalSequence),
        WEB,
        document!("`spiffe_sequence` of the bundle must be an integer from 0 to 2^64 - 1"),
    ),
    refused(
        Doc(Document::HasTextSequence),
        WEB,
        document!("`spiffe_sequence` of the bundle must be an integer from 0 to 2^64 - 1"),
    ),
    refused(
        Doc(Document::HasNegativeSequence),
        WEB,
        document!("`spiffe_sequence` of the bundle must be an integer from 0 to 2^64 - 1"),
    ),
    refused(
        Doc(Document::HasImpossibleSequence),
        WEB,
        document!("`spiffe_sequence` of the bundle must be an integer from 0 to 2^64 - 1"),
    ),
    refused(Doc(Document::IsRolledBack), WEB, ROLLED_BACK),
    refused(Doc(Document::IsRolledBack), SPIFFE, ROLLED_BACK),
    refused(
        Doc(Document::HasHugeSequence),
        WEB,
        "the partner's bundle leaps from sequence 5 to 18446744073709551615, which leaves no room for later ones; held back. If this is intended, approve it",
    ),
    refused(Doc(Document::IsEmptied), WEB, EMPTIED),
    refused(Doc(Document::IsEmptied), SPIFFE, EMPTIED),
    accepted(Document::HasHugeHint),
    accepted(Document::LacksNumbers),
    accepted(Document::HasUnknownMembers),
    accepted(Document::HasKeysOfTheFuture),
    accepted(Document::HasExpiredRootToo),
    accepted(Document::HasCertificateChain),
    accepted(Document::RepeatsKey),
    accepted(Document::IsSaidToBeHtml),
];
