//! Access tokens a cloud gives out, and which of them are still good.

use std::sync::{Arc, Mutex};

use http::HeaderMap;

#[derive(Debug, Clone, Default)]
pub struct Tokens(Arc<Mutex<Vec<String>>>);

impl Tokens {
    /// Gives out another one. Only the last two are good.
    pub fn issue(&self) -> String {
        let mut issued = self.0.lock().unwrap();
        let token = format!("token-{}", issued.len() + 1);
        issued.push(token.clone());
        token
    }

    /// How many were given out.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Whether a request carries a good one.
    pub fn good(&self, headers: &HeaderMap) -> bool {
        let token = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        token.is_some_and(|token| self.0.lock().unwrap().iter().rev().take(2).any(|good| good == token))
    }
}
