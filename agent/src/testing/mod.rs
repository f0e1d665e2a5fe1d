//! What the agent's tests share: a certificate authority, an issuer in this process and agents talking to it.

pub(crate) mod authority;
