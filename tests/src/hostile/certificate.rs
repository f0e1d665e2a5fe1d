//! Certificates and TLS settings that a bundle endpoint must not have. Each completes or begins a proper handshake.

use std::sync::Arc;

use anyhow::Result;
use rcgen::{CertificateParams, IsCa, KeyUsagePurpose, SanType, date_time_ymd, string::Ia5String};
use rustls::{ServerConfig, version::TLS12};

use super::{
    authority::{Identity, Keys, WebAuthority, self_signed},
    server::HTTP11,
    table::Profile,
};

/// What is wrong with the endpoint's TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Certificate {
    /// It ended long ago.
    IsExpired,
    /// It begins in the future.
    IsNotYetValid,
    /// The right names, signed by an authority that took the right one's name.
    IsForged,
    /// `https_web`: another host's.
    IsForAnotherHost,
    /// `https_web`: signed by its own key.
    IsSelfSigned,
    /// `https_web`: an X509-SVID, which names no host.
    IsAnSvid,
    /// `https_spiffe`: of the web, so it has no SPIFFE ID.
    IsOfTheWeb,
    /// `https_spiffe`: another SPIFFE ID of the same trust domain.
    HasAnotherPath,
    /// `https_spiffe`: an X509-SVID of another trust domain, properly signed there.
    IsOfAnotherDomain,
    /// `https_spiffe`: the agreed SPIFFE ID, signed by the authority of another trust domain.
    IsSignedByAnotherDomain,
    /// `https_spiffe`: two SPIFFE IDs.
    HasTwoIds,
    /// `https_spiffe`: the SPIFFE ID of the trust domain, without path.
    HasNoPath,
    /// `https_spiffe`: marked as CA.
    IsCa,
    /// `https_spiffe`: may sign certificates.
    MaySign,
    /// `https_spiffe`: followed by far too many others.
    HasLongChain,
    /// Followed by more certificates than a handshake may carry.
    HasEndlessChain,
    /// A client certificate is demanded, TLS 1.3.
    DemandsAnother,
    /// A client certificate is demanded, TLS 1.2.
    DemandsAnotherInTls12,
    /// Neither HTTP/1.1 nor HTTP/2 is spoken.
    ComesWithoutHttp,
}

impl Certificate {
    /// The TLS server that misbehaves so, for an endpoint with these keys.
    pub(super) fn server(self, profile: Profile, web: &WebAuthority, keys: &Keys) -> Result<Arc<ServerConfig>> {
        let altered = |change: &dyn Fn(&mut CertificateParams)| match profile {
            Profile::HttpsWeb => web.certificate(&["localhost"], change),
            Profile::HttpsSpiffe => keys.svid(change, 0),
        };
        let named = |ids: &[&str]| -> Result<Identity> {
            let names = ids.iter().map(|&id| Ok(SanType::URI(Ia5String::try_from(id)?))).collect::<Result<Vec<_>>>()?;
            keys.svid(|params| params.subject_alt_names = names, 0)
        };
        let id = keys.endpoint_id();
        let stranger = Keys::create("stranger.example")?;
        let identity = match self {
            Self::IsExpired => altered(&|params| params.not_after = date_time_ymd(2001, 1, 1))?,
            Self::IsNotYetValid => altered(&|params| params.not_before = date_time_ymd(2999, 1, 1))?,
            Self::IsForged => match profile {
                Profile::HttpsWeb => {
                    let elsewhere = tempfile::tempdir()?;
                    WebAuthority::create(&elsewhere.path().join("ca.pem"))?.localhost()?
                }
                Profile::HttpsSpiffe => Keys::create(keys.trust_domain())?.endpoint()?,
            },
            Self::IsForAnotherHost => web.certificate(&["elsewhere.example"], |_| {})?,
            Self::IsSelfSigned => self_signed()?,
            Self::IsAnSvid => keys.endpoint()?,
            Self::IsOfTheWeb => web.localhost()?,
            Self::HasAnotherPath => named(&[&format!("{id}/other")])?,
            Self::IsOfAnotherDomain => stranger.endpoint()?,
            Self::IsSignedByAnotherDomain => {
                let name = SanType::URI(Ia5String::try_from(id)?);
                stranger.svid(|params| params.subject_alt_names = vec![name], 0)?
            }
            Self::HasTwoIds => named(&[&id, &format!("{id}/other")])?,
            Self::HasNoPath => named(&[id.trim_end_matches("/endpoint")])?,
            Self::IsCa => altered(&|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained))?,
            Self::MaySign => altered(&|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign))?,
            Self::HasLongChain => keys.svid(|_| {}, 40)?,
            Self::HasEndlessChain => keys.svid(|_| {}, 2000)?,
            Self::DemandsAnother => {
                return web.localhost()?.server_that_asks_for_a_certificate(&web.certificate, rustls::DEFAULT_VERSIONS);
            }
            Self::DemandsAnotherInTls12 => {
                return web.localhost()?.server_that_asks_for_a_certificate(&web.certificate, &[&TLS12]);
            }
            Self::ComesWithoutHttp => return altered(&|_| {})?.server(&[b"smtp"]),
        };
        identity.server(&[HTTP11])
    }
}
