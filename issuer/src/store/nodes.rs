//! Attested nodes.

use service_kit::database::{Backend, Connection, Row};
use std::collections::BTreeSet;

use federation_specs::id::SpiffeId;
use federation_specs::selector::Selector;
use sqlx::{QueryBuilder, Row as _};

use super::changes::{self, Removed, Touched};
use super::filter::{Conditions, SetTable};
use super::row::{corrupt, flag, from_json, parsed, to_json};
use super::{Page, Paged, Store, StoreError, entries};
use crate::node::{Attestation, JOIN_TOKEN_TYPE, Node, NodeFilter};

const COLUMNS: &str = "select row_id, agent_id, attestation_type, serial_number, expires_at, new_serial_number, \
     new_expires_at, cast(can_reattest as integer) as can_reattest, agent_version, selectors from nodes";

const SELECTORS: SetTable = SetTable { table: "node_selectors", owner: "node_row", member: "selector" };

pub(super) const TOUCHED: Touched = Touched { entries: false, nodes: true, bundles: false, relationships: false };
/// A changed serial or version is nothing to wake anybody for.
const UNTOUCHED: Touched = Touched { entries: false, nodes: false, bundles: false, relationships: false };

const MISSING: StoreError = StoreError::NotFound { what: "agent" };

impl Store {
    /// The node of an agent.
    pub async fn get_node(&self, agent_id: &SpiffeId) -> Result<Option<Node>, StoreError> {
        let mut connection = self.connection().await?;
        Ok(find(&mut connection, agent_id).await?.map(|(_, node)| node))
    }

    /// Nodes that match, in the order stored.
    ///
    /// # Errors
    /// [`StoreError::FilterTooLarge`].
    pub async fn list_nodes(&self, filter: &NodeFilter, page: Page) -> Result<Paged<Node>, StoreError> {
        let mut query = QueryBuilder::new(COLUMNS);
        filter_by(&mut query, filter, Some(page))?;
        query.push(" order by row_id limit ").push_bind(page.limit());
        let mut connection = self.connection().await?;
        let rows = query.build().fetch_all(&mut *connection).await?;
        Ok(Paged::new(page, rows.iter().map(read).collect::<Result<_, _>>()?))
    }

    /// Number of nodes that match.
    ///
    /// # Errors
    /// [`StoreError::FilterTooLarge`].
    pub async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::new("select count(*) from nodes");
        filter_by(&mut query, filter, None)?;
        let mut connection = self.connection().await?;
        let count: i64 = query.build_query_scalar().fetch_one(&mut *connection).await?;
        Ok(count.unsigned_abs())
    }

    /// Stores a renewed X509-SVID as the new one; it becomes current when the agent first uses it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], for a banned node too.
    pub async fn renew_node(
        &self,
        agent_id: &SpiffeId,
        new_serial: &str,
        new_expires_at: i64,
    ) -> Result<Node, StoreError> {
        let mut tx = self.begin("nodes.renew").await?;
        sqlx::query(
            "update nodes set new_serial_number = $1, new_expires_at = $2, changed = $3 \
             where agent_id = $4 and serial_number <> ''",
        )
        .bind(new_serial)
        .bind(new_expires_at)
        .bind(tx.at)
        .bind(agent_id.as_str())
        .execute(&mut *tx.connection)
        .await?;
        let (_, node) =
            find(&mut tx.connection, agent_id).await?.filter(|(_, node)| !node.is_banned()).ok_or(MISSING)?;
        tx.commit(UNTOUCHED).await?;
        Ok(node)
    }

    /// Makes the new serial the current one if it still is `serial`; returns the node as it then is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn promote_node(&self, agent_id: &SpiffeId, serial: &str) -> Result<Node, StoreError> {
        let mut tx = self.begin("nodes.promote").await?;
        sqlx::query(
            "update nodes set serial_number = new_serial_number, expires_at = new_expires_at, new_serial_number = '', \
             new_expires_at = 0, changed = $1 where agent_id = $2 and new_serial_number = $3 and $3 <> ''",
        )
        .bind(tx.at)
        .bind(agent_id.as_str())
        .bind(serial)
        .execute(&mut *tx.connection)
        .await?;
        let (_, node) = find(&mut tx.connection, agent_id).await?.ok_or(MISSING)?;
        tx.commit(UNTOUCHED).await?;
        Ok(node)
    }

    /// Bans a node: its serials are emptied, the row stays.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn ban_node(&self, agent_id: &SpiffeId) -> Result<Node, StoreError> {
        let mut tx = self.begin("nodes.ban").await?;
        sqlx::query(
            "update nodes set serial_number = '', new_serial_number = '', new_expires_at = 0, changed = $1 \
             where agent_id = $2",
        )
        .bind(tx.at)
        .bind(agent_id.as_str())
        .execute(&mut *tx.connection)
        .await?;
        let (_, node) = find(&mut tx.connection, agent_id).await?.ok_or(MISSING)?;
        tx.commit(TOUCHED).await?;
        Ok(node)
    }

    /// Deletes a node; with one that joined by token, its alias entries too.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_node(&self, agent_id: &SpiffeId) -> Result<Node, StoreError> {
        let mut tx = self.begin("nodes.delete").await?;
        let (row_id, node) = find(&mut tx.connection, agent_id).await?.ok_or(MISSING)?;
        let mut touched = TOUCHED;
        if node.attestation_type == JOIN_TOKEN_TYPE {
            entries::delete_aliases(&mut tx.connection, agent_id, tx.at).await?;
            touched.entries = true;
        }
        sqlx::query("delete from nodes where row_id = $1").bind(row_id).execute(&mut *tx.connection).await?;
        changes::removed(&mut tx.connection, Removed::Node, agent_id.as_str(), tx.at).await?;
        tx.commit(touched).await?;
        Ok(node)
    }

    /// Stores the version an agent reported.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_agent_version(&self, agent_id: &SpiffeId, version: &str) -> Result<(), StoreError> {
        let mut tx = self.begin("nodes.version").await?;
        let done = sqlx::query("update nodes set agent_version = $1 where agent_id = $2")
            .bind(version)
            .bind(agent_id.as_str())
            .execute(&mut *tx.connection)
            .await?;
        if done.rows_affected() == 0 {
            return Err(MISSING);
        }
        tx.commit(UNTOUCHED).await
    }
}

/// There is a node of that ID.
pub(super) async fn exists(connection: &mut Connection, agent_id: &SpiffeId) -> Result<bool, StoreError> {
    Ok(find(connection, agent_id).await?.is_some())
}

/// Nodes written after counter value `after`.
pub(super) async fn changed_after(connection: &mut Connection, after: i64) -> Result<Vec<Node>, StoreError> {
    let mut query = QueryBuilder::<Backend>::new(COLUMNS);
    query.push(" where changed > ").push_bind(after).push(" order by row_id");
    let rows = query.build().fetch_all(connection).await?;
    rows.iter().map(|row| read(row).map(|(_, node)| node)).collect()
}

pub(super) async fn find(connection: &mut Connection, agent_id: &SpiffeId) -> Result<Option<(i64, Node)>, StoreError> {
    let mut query = QueryBuilder::<Backend>::new(COLUMNS);
    query.push(" where agent_id = ").push_bind(agent_id.to_string());
    query.build().fetch_optional(connection).await?.as_ref().map(read).transpose()
}

pub(super) async fn upsert(
    connection: &mut Connection,
    attestation: &Attestation,
    stored: Option<(i64, Node)>,
    at: i64,
) -> Result<Node, StoreError> {
    let node = Node {
        agent_id: attestation.agent_id.clone(),
        // The type of the first attestation stays.
        attestation_type: match &stored {
            Some((_, node)) => node.attestation_type.clone(),
            None => attestation.attestation_type.clone(),
        },
        serial_number: attestation.serial_number.clone(),
        expires_at: attestation.expires_at,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: attestation.can_reattest,
        agent_version: stored.map(|(_, node)| node.agent_version).unwrap_or_default(),
        selectors: attestation.selectors.clone(),
    };
    let row_id: i64 = sqlx::query_scalar(
        "insert into nodes (agent_id, attestation_type, serial_number, expires_at, new_serial_number, new_expires_at, \
         can_reattest, agent_version, selectors, changed) values ($1, $2, $3, $4, '', 0, $5, $6, $7, $8) \
         on conflict (agent_id) do update set serial_number = excluded.serial_number, \
         expires_at = excluded.expires_at, new_serial_number = '', new_expires_at = 0, \
         can_reattest = excluded.can_reattest, selectors = excluded.selectors, changed = excluded.changed \
         returning row_id",
    )
    .bind(node.agent_id.as_str())
    .bind(&node.attestation_type)
    .bind(&node.serial_number)
    .bind(node.expires_at)
    .bind(node.can_reattest)
    .bind(&node.agent_version)
    .bind(to_json(&node.selectors.iter().map(Selector::to_string).collect::<Vec<_>>())?)
    .bind(at)
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query("delete from node_selectors where node_row = $1").bind(row_id).execute(&mut *connection).await?;
    for selector in &node.selectors {
        sqlx::query("insert into node_selectors (node_row, selector) values ($1, $2)")
            .bind(row_id)
            .bind(selector.to_string())
            .execute(&mut *connection)
            .await?;
    }
    Ok(node)
}

fn filter_by(query: &mut QueryBuilder<Backend>, filter: &NodeFilter, page: Option<Page>) -> Result<(), StoreError> {
    let mut conditions = Conditions::new(query);
    if let Some(page) = page {
        conditions.compare("row_id >", page.after);
    }
    if let Some(attestation_type) = &filter.attestation_type {
        conditions.compare("attestation_type =", attestation_type.clone());
    }
    match filter.banned {
        Some(true) => conditions.holds("serial_number = ''"),
        Some(false) => conditions.holds("serial_number <> ''"),
        None => {}
    }
    if let Some(can_reattest) = filter.can_reattest {
        conditions.compare("can_reattest =", can_reattest);
    }
    if let Some(before) = filter.expires_before {
        conditions.compare("expires_at <", before);
    }
    if let Some((selectors, behavior)) = &filter.selectors {
        conditions.set(&SELECTORS, &selectors.iter().map(Selector::to_string).collect(), *behavior)?;
    }
    Ok(())
}

fn read(row: &Row) -> Result<(i64, Node), StoreError> {
    let name: String = row.try_get("agent_id")?;
    let reason = |error: &dyn std::fmt::Display| corrupt("agent", &name, error);
    let selectors: Vec<String> = from_json(row, "selectors", &reason)?;
    let selectors = selectors.iter().map(|text| Selector::parse(text)).collect::<Result<BTreeSet<_>, _>>();
    let node = Node {
        agent_id: parsed(row, "agent_id", SpiffeId::parse, &reason)?,
        attestation_type: row.try_get("attestation_type")?,
        serial_number: row.try_get("serial_number")?,
        expires_at: row.try_get("expires_at")?,
        new_serial_number: row.try_get("new_serial_number")?,
        new_expires_at: row.try_get("new_expires_at")?,
        can_reattest: flag(row, "can_reattest")?,
        agent_version: row.try_get("agent_version")?,
        selectors: selectors.map_err(|error| reason(&error))?,
    };
    Ok((row.try_get("row_id")?, node))
}
