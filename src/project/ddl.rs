//! The statements that bring tables and views to what the project's files say. Pure: what exists goes in, statements
//! come out; `project::apply` reads the one and runs the other.
//!
//! A table may gain columns. What would lose or reinterpret data (another type, another primary key, a column that
//! goes) is refused, and the message says what to do.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::config::kpi::Window;
use crate::plan::kpis::KpiSpec;
use crate::plan::tables::{META_COLUMNS, TableSpec};
use crate::project::definitions::{Definition, Difference};
use crate::schema::value::Column;

/// A table as it is in the database.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Existing {
    /// Type (as `format_type` prints it) and whether it may be null, by column.
    pub columns: BTreeMap<String, (String, bool)>,
    /// Columns of the primary key, in order.
    pub primary_key: Vec<String>,
}

/// Why the database cannot follow the files.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DdlError {
    /// A column's type differs.
    #[error(
        "table `{table}`: column `{column}` is {existing} and the schema of topic `{topic}` makes it {wanted}; \
         give the field another name, or the topic another table"
    )]
    TypeChanged {
        /// Table.
        table: String,
        /// Topic.
        topic: String,
        /// Column.
        column: String,
        /// Type it has.
        existing: String,
        /// Type it should have.
        wanted: String,
    },
    /// A new column cannot be null, and the rows that exist have no value for it.
    #[error(
        "table `{table}`: the new column `{column}` cannot be null, but earlier rows have no value for it; \
         make the field [\"null\", ...]"
    )]
    NotNullable {
        /// Table.
        table: String,
        /// Column.
        column: String,
    },
    /// A column without a field that may not be null: no new row could be stored.
    #[error(
        "table `{table}`: column `{column}` is not a field of the schema any more and must not be null; \
         run: alter table \"{table}\" alter column \"{column}\" drop not null"
    )]
    FieldGone {
        /// Table.
        table: String,
        /// Column.
        column: String,
    },
    /// The primary key differs.
    #[error(
        "table `{table}`: the primary key is ({existing}) and the file says ({wanted}); give the topic another table"
    )]
    KeyChanged {
        /// Table.
        table: String,
        /// Key it has.
        existing: String,
        /// Key it should have.
        wanted: String,
    },
    /// A table of that name belongs to somebody else.
    #[error(
        "table `{table}` exists and is not one of Millrace's: it has no column `_topic`; choose another name"
    )]
    Foreign {
        /// Table.
        table: String,
    },
    /// Two topics or KPIs want the same name.
    #[error("`{name}` is the name of two {what}")]
    Twice {
        /// Name.
        name: String,
        /// `tables` or `views`.
        what: &'static str,
    },
    /// A KPI's definition changed while it has rows.
    #[error(
        "KPI `{kpi}`: its {what} changed from {existing} to {wanted}, and the rows that exist were folded the old way; \
         `millrace kpi rebuild {kpi}` folds them anew, or give the KPI another name"
    )]
    DefinitionChanged {
        /// KPI.
        kpi: String,
        /// What changed.
        what: &'static str,
        /// What it was.
        existing: String,
        /// What it should be.
        wanted: String,
    },
}

/// An identifier in quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Text as a literal.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Identifiers in quotes, separated by commas.
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// Names of a table's columns, those of its own last.
pub fn column_names(spec: &TableSpec) -> impl Iterator<Item = &str> {
    spec.columns.iter().map(|column| column.name.as_str()).chain(META_COLUMNS.iter().map(|(name, _)| *name))
}

/// What is to be done for `spec`.
///
/// # Errors
/// [`DdlError`] when the table that exists cannot become the one that is wanted.
pub fn table(spec: &TableSpec, existing: Option<&Existing>) -> Result<Vec<String>, DdlError> {
    match existing {
        None => Ok(vec![create_table(spec)]),
        Some(existing) => alter_table(spec, existing),
    }
}

fn create_table(spec: &TableSpec) -> String {
    let mut text = format!("create table {} (\n", quoted(&spec.name));
    for column in &spec.columns {
        _ = writeln!(text, "    {},", definition(column));
    }
    for (name, kind) in META_COLUMNS {
        _ = writeln!(text, "    {} {} not null,", quoted(name), kind.sql());
    }
    _ = write!(
        text,
        "    primary key ({})\n) with (fillfactor = 90)",
        list(spec.primary_key.iter().map(|name| &**name))
    );
    text
}

fn definition(column: &Column) -> String {
    let null = if column.is_nullable { "" } else { " not null" };
    format!("{} {}{null}", quoted(&column.name), column.kind.sql())
}

fn alter_table(spec: &TableSpec, existing: &Existing) -> Result<Vec<String>, DdlError> {
    let table = spec.name.to_string();
    if !existing.columns.contains_key("_topic") {
        return Err(DdlError::Foreign { table });
    }
    let wanted_key: Vec<&str> = spec.primary_key.iter().map(|name| &**name).collect();
    if existing.primary_key != wanted_key {
        let (existing, wanted) = (existing.primary_key.join(", "), wanted_key.join(", "));
        return Err(DdlError::KeyChanged { table, existing, wanted });
    }
    let gone = existing
        .columns
        .iter()
        .find(|(name, (_, is_nullable))| !is_nullable && !column_names(spec).any(|own| own == name.as_str()));
    if let Some((column, _)) = gone {
        return Err(DdlError::FieldGone { table, column: column.clone() });
    }
    let mut statements = Vec::new();
    for column in &spec.columns {
        let wanted = column.kind.sql();
        let name = column.name.clone();
        match existing.columns.get(&column.name) {
            Some((kind, _)) if kind != wanted => {
                return Err(DdlError::TypeChanged {
                    table,
                    topic: spec.topic.to_string(),
                    column: name,
                    existing: kind.clone(),
                    wanted: wanted.to_owned(),
                });
            }
            Some((_, false)) if column.is_nullable => {
                let alter =
                    format!("alter table {} alter column {} drop not null", quoted(&table), quoted(&name));
                statements.push(alter);
            }
            Some(_) => {}
            None if column.is_nullable => {
                statements.push(format!("alter table {} add column {}", quoted(&table), definition(column)));
            }
            None => return Err(DdlError::NotNullable { table, column: name }),
        }
    }
    Ok(statements)
}

/// The view of one window of a KPI. Its columns never change, because a KPI's dimensions do not; so it is replaced in
/// place and keeps the rights that were granted on it.
pub fn view(spec: &KpiSpec, window: Window) -> String {
    let dimensions: String = spec
        .dimensions
        .iter()
        .map(|name| format!("dimensions ->> {} as {}, ", literal(name), quoted(name)))
        .collect();
    format!(
        "create or replace view {} as select window_start, window_end, {dimensions}value, events, updated_at \
         from kpi_values where kpi = {} and window_size = {}",
        quoted(&spec.view(window)),
        literal(&spec.name),
        literal(window.name())
    )
}

/// The definition's row as it is to be; `None` when it stands as it is. Windows and lateness may change: they count
/// from then on.
///
/// # Errors
/// [`DdlError::DefinitionChanged`] when the rows that exist were folded by something else.
pub fn kpi(spec: &KpiSpec, existing: Option<&Definition>) -> Result<Option<Definition>, DdlError> {
    let wanted = Definition::of(spec);
    let Some(existing) = existing else { return Ok(Some(wanted)) };
    match existing.differences(&wanted).into_iter().find(|difference| difference.needs_rebuild()) {
        Some(Difference { what, existing, wanted }) => {
            Err(DdlError::DefinitionChanged { kpi: spec.name.to_string(), what, existing, wanted })
        }
        None => Ok((*existing != wanted).then_some(wanted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kpi::Aggregate;
    use crate::config::topic::OnConflict;
    use crate::schema::value::ColumnType;

    fn spec(columns: &[(&str, ColumnType, bool)]) -> TableSpec {
        let columns = columns
            .iter()
            .map(|(name, kind, is_nullable)| Column {
                name: (*name).to_owned(),
                kind: *kind,
                is_nullable: *is_nullable,
            })
            .collect();
        TableSpec {
            topic: "payments".into(),
            schema: "".into(),
            name: "payments".into(),
            columns,
            primary_key: vec!["id".into()],
            on_conflict: OnConflict::Newest,
        }
    }

    fn existing(columns: &[(&str, &str, bool)]) -> Existing {
        let meta = META_COLUMNS.map(|(name, kind)| (name, kind.sql(), false));
        let columns = columns
            .iter()
            .chain(&meta)
            .map(|(name, kind, is_nullable)| ((*name).to_owned(), ((*kind).to_owned(), *is_nullable)))
            .collect();
        Existing { columns, primary_key: vec![String::from("id")] }
    }

    #[test]
    fn a_new_table_is_created_with_quoted_names() {
        let spec = spec(&[("id", ColumnType::Text, false), ("Order", ColumnType::Numeric, true)]);
        expect_test::expect![[r#"
            create table "payments" (
                "id" text not null,
                "Order" numeric,
                "_topic" text not null,
                "_partition" integer not null,
                "_offset" bigint not null,
                "_time" timestamp with time zone not null,
                primary key ("id")
            ) with (fillfactor = 90)"#]]
        .assert_eq(&table(&spec, None).expect("a new table").join(";\n"));
    }

    #[test]
    fn columns_may_come_and_become_nullable() {
        let spec = spec(&[
            ("id", ColumnType::Text, false),
            ("a", ColumnType::Integer, true),
            ("b", ColumnType::Json, true),
        ]);
        let statements = table(&spec, Some(&existing(&[("id", "text", false), ("a", "integer", false)])));
        assert_eq!(
            statements,
            Ok(vec![
                String::from(r#"alter table "payments" alter column "a" drop not null"#),
                String::from(r#"alter table "payments" add column "b" jsonb"#),
            ])
        );
    }

    #[track_caller]
    fn check_refused(columns: &[(&str, ColumnType, bool)], existing: &Existing, begins: &str) {
        let error = table(&spec(columns), Some(existing)).expect_err("refused").to_string();
        assert!(error.starts_with(begins), "{error}");
    }

    #[test]
    fn what_would_lose_data_is_refused() {
        let id = ("id", ColumnType::Text, false);
        let has_id = ("id", "text", false);
        check_refused(
            &[id, ("a", ColumnType::BigInt, true)],
            &existing(&[has_id, ("a", "integer", true)]),
            "table `payments`: column `a` is integer and the schema of topic `payments` makes it bigint",
        );
        check_refused(
            &[id, ("a", ColumnType::BigInt, false)],
            &existing(&[has_id]),
            "table `payments`: the new column `a` cannot be null",
        );
        check_refused(
            &[id],
            &existing(&[has_id, ("a", "integer", false)]),
            "table `payments`: column `a` is not a field of the schema any more",
        );
        let mut other_key = existing(&[has_id]);
        other_key.primary_key = vec![String::from("id"), String::from("_topic")];
        check_refused(
            &[id],
            &other_key,
            "table `payments`: the primary key is (id, _topic) and the file says (id)",
        );
        check_refused(&[id], &Existing::default(), "table `payments` exists and is not one of Millrace's");
    }

    #[test]
    fn a_view_shows_dimensions_as_columns() {
        let spec = KpiSpec {
            name: "lead-count".into(),
            fact: "lead".into(),
            aggregate: Aggregate::Count,
            windows: vec![Window::Day],
            dimensions: vec!["source".into()],
            time_zone: chrono_tz::Tz::UTC,
            lateness: std::time::Duration::ZERO,
            retention: None,
        };
        expect_test::expect![[r#"
            create or replace view "kpi_lead_count_1d" as select window_start, window_end, dimensions ->> 'source' as "source", value, events, updated_at from kpi_values where kpi = 'lead-count' and window_size = '1d'"#]]
        .assert_eq(&view(&spec, Window::Day));
        let folded = kpi(&spec, None).expect("a new KPI");
        assert_eq!(kpi(&spec, folded.as_ref()), Ok(None));
        let error =
            kpi(&KpiSpec { aggregate: Aggregate::Sum, ..spec }, folded.as_ref()).expect_err("refused");
        assert!(
            error.to_string().starts_with("KPI `lead-count`: its aggregate changed from count to sum"),
            "{error}"
        );
    }
}
