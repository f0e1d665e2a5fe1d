//! Why a bundle is not at a place.

/// Longest reason taken over from a provider, in characters.
const MAX_REASON_CHARS: usize = 300;

/// Why a bundle is not at a place, with the remedy. The place itself is named beside it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublisherError {
    /// There are no credentials, or they are not good.
    #[error("no usable credentials: {0}")]
    Credentials(String),
    /// The place does not let the gateway in.
    #[error("access denied: {reason}; give this gateway the permissions that docs/publishing.md lists for {action}")]
    Denied {
        /// What was tried: `reading` or `writing`.
        action: &'static str,
        /// What the place says.
        reason: String,
    },
    /// What contains the place is not there.
    #[error("not found: {0}")]
    Missing(String),
    /// The place does not answer.
    #[error("no answer: {0}; check the network, the address and its certificate")]
    Unreachable(String),
    /// The attempt took too long.
    #[error("gave up after {} s; check the network and whether the service is slow", _0.as_secs())]
    Timeout(std::time::Duration),
    /// Somebody else wrote at the same moment.
    #[error("somebody else changed it at the same moment; it is looked at again")]
    Conflict,
    /// Another field manager owns the field.
    #[error("{0}; let that manager give the field up, or set force_conflicts: true to take it over")]
    Owned(String),
    /// The place cannot hold this bundle.
    #[error("{0}")]
    Unfit(String),
    /// The place refused for another reason.
    #[error("refused: {0}")]
    Refused(String),
    /// What was written is not what is there.
    #[error("what was written is not what is there now; somebody else writes to it")]
    Unconfirmed,
    /// The place holds a newer bundle than this gateway serves.
    #[error(
        "it holds a newer bundle ({there}) than this gateway serves ({here}), which is left alone; this gateway's \
         sources lag behind another gateway's, or somebody put it there: then remove it"
    )]
    Newer {
        /// What the place holds, in words.
        there: String,
        /// What this gateway serves, in words.
        here: String,
    },
    /// A newer bundle than this gateway has was published before.
    #[error(
        "a newer bundle ({published}) was published than this gateway has ({here}), and nothing is written; its sources \
         went back, or lag behind those of the gateway that published: look at `entente gateway source list`"
    )]
    Behind {
        /// What was published, in words.
        published: String,
        /// What this gateway has, in words.
        here: String,
    },
    /// The bundle has no keys, and the place holds one with keys that is not known to be from here.
    #[error(
        "the served bundle has no keys, and what is there was not published by this gateway, so it is left alone; \
         remove it there if the trust domain is to be revoked"
    )]
    Emptied,
    /// The gateway's database failed.
    #[error("the gateway's database failed; see its log")]
    Store,
}

/// A text from elsewhere: one line, not longer than fits into a message.
pub(super) fn reason(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|letter| !letter.is_control()).take(MAX_REASON_CHARS).collect()
}

/// An error and its causes as one short line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    reason(&causes(error))
}

/// An error and its causes; those that repeat what was said are left out.
pub(super) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}
