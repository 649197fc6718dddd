//! `sql: {statement, params?}`: runs one statement in Postgres and keeps its rows in `%stages.<id>` as `{rows: [...]}`.
//!
//! Values come in as `$1`, `$2`, ... only: the statement is text of the project's file, so that no event can change what
//! it does. At-least-once: after a crash a statement may run again, so that `insert` wants its `on conflict`. A table that
//! should follow the events exactly once is a topic with a `table:`.
//!
//! The parameter `%idempotency_key` is the key that an `http` stage here would send: the same for every attempt of this
//! record at this step, so that a statement can tell a repeat from new work.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::expr::program::{self, Program};
use crate::expr::values;
use crate::fault::Fault;
use crate::stages::context::{CompileCx, Next, StageCx};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Spanned};
use crate::yaml::node::Node;

/// Most parameters of a statement.
const PARAMS_MAX: usize = 100;

/// The parameter that is no expression.
const KEY_PARAM: &str = "%idempotency_key";

/// As written.
#[derive(Clone, Debug)]
pub struct SqlConfig {
    statement: Spanned<String>,
    params: Vec<Node>,
}

/// Compiled.
#[derive(Debug)]
pub struct Sql {
    statement: String,
    params: Vec<Param>,
}

#[derive(Debug)]
enum Param {
    /// What an expression gives.
    Of(Program),
    /// The step's idempotency key.
    Key,
}

impl SqlConfig {
    /// Decodes the mapping; counts the statement's parameters.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`sql`", lints)?;
        let statement = fields.required("statement", lints).and_then(|node| fields::text(node, lints));
        let params = match fields.optional("params") {
            Some(node) => fields::list(node, lints, |node, _| Some(node.clone()))?,
            None => Vec::new(),
        };
        fields.finish(lints);
        let config = Self { statement: statement?, params };
        config.check(lints).then_some(config)
    }

    fn check(&self, lints: &mut Lints) -> bool {
        let Spanned { value: statement, span } = &self.statement;
        let count = self.params.len();
        let used = match scan(statement) {
            Ok(used) => used,
            Err(why) => {
                lints.error("bad-statement", span, why.0, why.1);
                return false;
            }
        };
        let wanted: BTreeSet<usize> = (1..=count).collect();
        if count > PARAMS_MAX {
            let message = format!("{count} parameters are too many");
            lints.error("out-of-range", span, message, format!("at most {PARAMS_MAX}; give a JSON object"));
            return false;
        }
        if used == wanted {
            return true;
        }
        let names = |numbers: &mut dyn Iterator<Item = &usize>| {
            numbers.map(|number| format!("${number}")).collect::<Vec<_>>().join(", ")
        };
        let missing = names(&mut used.difference(&wanted));
        let unused = names(&mut wanted.difference(&used));
        let message = match missing.is_empty() {
            false => format!("the statement uses {missing}, `params` gives {count} values"),
            true => format!("`params` gives {count} values, the statement does not use {unused}"),
        };
        lints.error("parameter-count", span, message, "each of $1, $2, ... is one item of `params`");
        false
    }

    /// Compiles the parameters.
    pub fn compile(&self, cx: &mut CompileCx<'_>, lints: &mut Lints) -> Option<Sql> {
        let mut compile = |node: &Node| match node.expression() {
            Some(KEY_PARAM) => Some(Param::Key),
            _ => program::compile_expression(node, &cx.types, lints).map(Param::Of),
        };
        let params: Vec<_> = self.params.iter().map(&mut compile).collect();
        let params = params.into_iter().collect::<Option<_>>()?;
        Some(Sql { statement: self.statement.value.clone(), params })
    }
}

impl Sql {
    /// Its expressions.
    pub fn programs(&self) -> Vec<&Program> {
        let params = self.params.iter();
        params
            .filter_map(|param| match param {
                Param::Of(program) => Some(program),
                Param::Key => None,
            })
            .collect()
    }

    /// Runs the statement.
    ///
    /// # Errors
    /// Those of its expressions; of Postgres, transient or permanent by SQLSTATE.
    pub async fn apply(&self, cx: &mut StageCx<'_, '_>) -> Result<Next, Fault> {
        let mut params = Vec::with_capacity(self.params.len());
        for param in &self.params {
            params.push(match param {
                Param::Of(program) => values::to_json(&program.evaluate(cx.scope)?),
                Param::Key => Json::String(cx.idempotency_key()),
            });
        }
        let rows = cx.services.sql.query(cx.step, &self.statement, &params).await?;
        let rows: Vec<Json> = rows.into_iter().map(Json::Object).collect();
        cx.answer(values::from_json(serde_json::json!({ "rows": rows })));
        Ok(Next::Continue)
    }
}

/// What is wrong with a statement, and what to write.
type Refusal = (&'static str, &'static str);

/// The parameters `$n` that a statement uses, outside of strings, quoted names and comments.
fn scan(statement: &str) -> Result<BTreeSet<usize>, Refusal> {
    let bytes = statement.as_bytes();
    let mut used = BTreeSet::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &statement[at..];
        let before = at.checked_sub(1).map(|before| bytes[before]);
        let is_in_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        at += match bytes[at] {
            b'\'' => {
                let is_escaped = before.is_some_and(|byte| byte.eq_ignore_ascii_case(&b'e'));
                quoted(rest, '\'', is_escaped)?
            }
            b'"' => quoted(rest, '"', false)?,
            b'-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with("/*") => comment(rest)?,
            b'$' if !is_in_word => match parameter(rest) {
                Some((number, length)) => {
                    used.insert(number);
                    length
                }
                None => dollar_quoted(rest)?,
            },
            b';' if !rest[1..].trim().is_empty() => {
                return Err(("there is more than one statement", "write one statement in each stage"));
            }
            // At most the first byte of a character: the others match nothing above.
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
    Ok(used)
}

const UNCLOSED: Refusal = ("a quote or comment is not closed", "close it");

/// Length of text in quotes; a doubled quote stands for one.
fn quoted(text: &str, quote: char, is_escaped: bool) -> Result<usize, Refusal> {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if is_escaped && character == '\\' {
            characters.next();
        } else if character == quote && characters.next_if(|(_, next)| *next == quote).is_none() {
            return Ok(at + 1);
        }
    }
    Err(UNCLOSED)
}

/// Length of a comment; they nest.
fn comment(text: &str) -> Result<usize, Refusal> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(found) = text[at..].find(['/', '*']).map(|found| at + found) {
        let (step, by) = match &text.as_bytes()[found..(found + 2).min(text.len())] {
            b"/*" => (2, 1),
            b"*/" => (2, -1),
            _ => (1, 0),
        };
        at = found + step;
        depth = depth.saturating_add_signed(by);
        if by < 0 && depth == 0 {
            return Ok(at);
        }
    }
    Err(UNCLOSED)
}

/// `$12`: its number and length.
fn parameter(text: &str) -> Option<(usize, usize)> {
    let digits = text[1..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - 1);
    Some((text[1..=digits].parse().ok()?, digits + 1))
}

/// Length of `$tag$ ... $tag$`, or of a lone dollar.
fn dollar_quoted(text: &str) -> Result<usize, Refusal> {
    let Some(end) = text[1..].find('$').map(|end| end + 2) else { return Ok(1) };
    let tag = &text[..end];
    if !tag[1..end - 1].chars().all(|c| c.is_alphanumeric() || c == '_') {
        return Ok(1);
    }
    text[end..].find(tag).map(|close| end + close + end).ok_or(UNCLOSED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::bench::{Bench, node};
    use crate::stages::scripted_rows::{RowScript, ScriptedRows};
    use crate::stages::services::SqlService;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_found_where_postgres_finds_them() {
        let check = |statement: &str, wanted: &[usize]| {
            let used = scan(statement).map(|used| used.into_iter().collect::<Vec<_>>());
            assert_eq!(used, Ok(wanted.to_vec()), "{statement}");
        };
        check("select * from t where a = $1 and b = $2 or c = $1", &[1, 2]);
        check("select '$1', 'it''s $2', \"a$3\", \"x\"\"$4\" -- $5\n, $6", &[6]);
        check("select E'\\'$1', $2 /* $3 /* $4 */ $5 */", &[2]);
        check("select $$ $1 $$, $tag$ $2 $$ $tag$, $3", &[3]);
        check("select a$1 from t where é = $12;", &[12]);
        check("select 1 ; ", &[]);
        for broken in ["select 'a", "select /* /* */", "select $a$ x", "select 1; drop table t", "select \"a"]
        {
            assert!(scan(broken).is_err(), "{broken}");
        }
    }

    #[tokio::test]
    async fn rows_stand_in_the_metadata_and_parameters_are_counted() {
        let mut bench = Bench::new("{}", "[]");
        let rows = node("{stage: tell, respond: [{rows: [{id: 7}]}]}");
        let rows = ScriptedRows::decode(&rows, &mut Lints::default()).expect("rows");
        bench.services.sql = SqlService::Scripted(RowScript::new(&[rows]));
        let statement = "{statement: 'select id from t where a = $1 and b = $2', params: [.a, .b]}";
        let stage = bench.compile("sql", statement).expect("compiles");
        let (_, seen) = bench.apply(&stage, (1, "{}"), "'%stages.tell.rows[0].id'").await.expect("rows");
        assert_eq!(seen, 7);
        assert!(bench.apply(&stage, (1, "{}"), ".").await.is_err());
        assert_eq!(bench.services.problems().len(), 1);
        let key =
            "{statement: 'insert into t values ($1) on conflict do nothing', params: ['%idempotency_key']}";
        assert!(bench.compile("sql", key).is_ok());
        for (text, code) in [
            ("{statement: 'select $1, $3', params: [.a, .b]}", "parameter-count"),
            ("{statement: 'select 1', params: [.a]}", "parameter-count"),
            ("{statement: 'select 1; select 2'}", "bad-statement"),
        ] {
            assert_eq!(bench.compile("sql", text).expect_err("lints")[0].0, code, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_statement_makes_it_panic(statement in r#"[a'"$\-/*;1é\\ \n]{0,40}"#) {
            let _ = scan(&statement);
        }
    }
}
