//! What people and issuers ask for: refreshes and decisions.

use std::sync::Arc;

use federation_specs::id::TrustDomain;
use tokio::sync::oneshot;

use super::{Manager, RefreshError, Running};
use crate::{
    api::RefreshRequest,
    audit::{Actor, Order},
    refresh::{
        decision_error::DecisionError,
        requests::{NotTaken, Request},
    },
};

impl Manager {
    /// Fetches a partner's bundle now and waits for the outcome: whether a new bundle is in force.
    ///
    /// # Errors
    /// [`RefreshError`].
    pub async fn refresh(
        &self,
        partner: &TrustDomain,
        options: RefreshRequest,
        by: Actor,
    ) -> Result<bool, RefreshError> {
        self.definition(partner)?;
        // Where another gateway works on it, this one does until it is refreshed.
        let _here = self.leases().take(partner).await.map_err(DecisionError::from)?;
        let requests = match self.state().running.get(partner) {
            Some(running) => Arc::clone(&running.requests),
            None => return Err(RefreshError::Unknown(partner.clone())),
        };
        let (reply, answer) = oneshot::channel();
        requests.put(Request { options, by, reply }).map_err(|not_taken| match not_taken {
            NotTaken::Full => RefreshError::Busy(partner.clone()),
            NotTaken::Closed => RefreshError::Stopped,
        })?;
        match answer.await {
            Ok(outcome) => outcome.map_err(RefreshError::Failed),
            Err(_) => Err(RefreshError::Stopped),
        }
    }

    /// As [`Manager::refresh`], for the issuer of `local`.
    ///
    /// # Errors
    /// [`RefreshError`], also when this issuer's relationship is not the one in use.
    pub async fn refresh_for(
        &self,
        local: &TrustDomain,
        partner: &TrustDomain,
        options: RefreshRequest,
    ) -> Result<bool, RefreshError> {
        let definition = self.state().running.get(partner).map(Running::definition);
        if let Some(definition) = definition.filter(|definition| definition.conflicts.contains(local)) {
            return Err(RefreshError::Conflict {
                partner: partner.clone(),
                local: local.clone(),
                url: definition.url.to_string(),
            });
        }
        self.refresh(partner, options, Actor::Issuer { trust_domain: local.to_string() }).await
    }

    /// Puts the waiting bundle in force and has it delivered.
    ///
    /// # Errors
    /// [`RefreshError::Unknown`], [`RefreshError::Decision`].
    pub async fn approve(
        &self,
        partner: &TrustDomain,
        digest: Option<&str>,
        order: &Order<'_>,
    ) -> Result<(), RefreshError> {
        let definition = self.definition(partner)?;
        self.catch_up(partner).await?;
        self.decisions().approve(partner, definition.policy, digest, order).await?;
        self.in_force(&definition);
        Ok(())
    }

    /// Turns the waiting bundle down.
    ///
    /// # Errors
    /// [`RefreshError::Unknown`], [`RefreshError::Decision`].
    pub async fn reject(
        &self,
        partner: &TrustDomain,
        digest: Option<&str>,
        order: &Order<'_>,
    ) -> Result<(), RefreshError> {
        self.definition(partner)?;
        self.catch_up(partner).await?;
        Ok(self.decisions().reject(partner, digest, order).await?)
    }

    /// Stops a relationship in place.
    ///
    /// # Errors
    /// [`RefreshError::Unknown`], [`RefreshError::Decision`].
    pub async fn freeze(&self, partner: &TrustDomain, order: &Order<'_>) -> Result<(), RefreshError> {
        self.definition(partner)?;
        self.catch_up(partner).await?;
        Ok(self.decisions().freeze(partner, order).await?)
    }

    /// Lets a relationship go on, beginning with a refresh.
    ///
    /// # Errors
    /// [`RefreshError::Unknown`], [`RefreshError::Decision`].
    pub async fn unfreeze(&self, partner: &TrustDomain, order: &Order<'_>) -> Result<(), RefreshError> {
        self.definition(partner)?;
        self.catch_up(partner).await?;
        self.decisions().unfreeze(partner, order).await?;
        // Where another gateway works on it, that one hears of it within a second.
        if self.leases().holds(partner) {
            self.refresh_soon(partner, order.by.clone());
        }
        Ok(())
    }

    /// Puts a named bundle in force and has it delivered; freezes the relationship unless it is pinned.
    ///
    /// # Errors
    /// [`RefreshError::Unknown`], [`RefreshError::Decision`].
    pub async fn restore(&self, partner: &TrustDomain, name: &str, order: &Order<'_>) -> Result<(), RefreshError> {
        let definition = self.definition(partner)?;
        self.catch_up(partner).await?;
        self.decisions().restore(partner, definition.policy, name, order).await?;
        self.in_force(&definition);
        Ok(())
    }
}
