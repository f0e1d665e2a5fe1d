//! The two schemas are one: each step has its counterpart, and the tables have the same columns.

use super::*;

/// Every `table.column`, the driver's own table left out.
async fn columns(store: &Store) -> Vec<String> {
    let sql = match store.database.dialect() {
        service_kit::database::Dialect::Sqlite => {
            "select m.name || '.' || c.name from sqlite_schema m, pragma_table_xinfo(m.name) c where m.type = 'table'"
        }
        service_kit::database::Dialect::Postgres => {
            "select table_name || '.' || column_name from information_schema.columns where table_schema = 'public'"
        }
    };
    let mut columns: Vec<String> = sqlx::query_scalar(sql).fetch_all(store.database.reader()).await.unwrap();
    columns.retain(|column| !column.starts_with("_sqlx"));
    columns.sort();
    columns
}

#[tokio::test]
async fn both_databases_have_the_same_tables_and_columns() {
    let steps = |migrator: &Migrator| -> Vec<_> {
        migrator.iter().map(|step| (step.version, step.description.to_string())).collect()
    };
    assert_eq!(steps(&SQLITE), steps(&POSTGRES));
    let sqlite = columns(&Place::sqlite().open().await).await;
    assert!(sqlite.contains(&"audit_log.hash".to_owned()), "{sqlite:?}");
    assert_eq!(sqlite, columns(&Place::postgres().open().await).await);
}
