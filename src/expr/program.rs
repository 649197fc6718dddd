//! Programs: compiled from a node of a project file, run over a [`Scope`].

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use vrl::compiler::runtime::{Runtime, Terminate};
use vrl::compiler::{CompileConfig, ExpressionError, Function, ProgramInfo, TimeZone};
use vrl::diagnostic::{Diagnostic, DiagnosticList, Note};
use vrl::path::{OwnedSegment, OwnedTargetPath, PathPrefix};

use crate::expr::plain::Plain;
use crate::expr::projection::{Projection, Reach};
use crate::expr::scope::{FIELDS, Metadata, Scope};
use crate::expr::types::Types;
use crate::expr::{Kind, Value};
use crate::fault::{Fault, FaultClass};
use crate::yaml::fields;
use crate::yaml::lint::{Lints, Span, nearest, suggestion};
use crate::yaml::node::Node;

/// Longest program, in bytes.
const PROGRAM_BYTES_MAX: usize = 32 * 1024;
/// How deep brackets may nest in a program.
const PROGRAM_DEPTH_MAX: usize = 64;
/// Most expressions that one run of a program may work through. Programs end by themselves, but a closure in a closure
/// over a long list takes its time.
const EXPRESSIONS_MAX: u32 = 5_000_000;

/// Functions of the standard library that are not offered.
const REFUSED: [&str; 16] = [
    // They write to this process's log or tell about its machine.
    "log",
    "get_env_var",
    "get_hostname",
    "get_timezone_name",
    // They ask the network.
    "dns_lookup",
    "reverse_dns",
    "http_request",
    // They read files.
    "encode_proto",
    "parse_proto",
    "validate_json_schema",
    "parse_etld",
    // A few bytes in can be gigabytes out.
    "decode_gzip",
    "decode_zlib",
    "decode_zstd",
    "decode_snappy",
    "decode_lz4",
];

static FUNCTIONS: LazyLock<Vec<Box<dyn Function>>> = LazyLock::new(|| {
    let mut functions = vrl::stdlib::all();
    functions.retain(|function| !REFUSED.contains(&function.identifier()));
    functions
});

static UTC: LazyLock<TimeZone> = LazyLock::new(|| TimeZone::parse("UTC").unwrap_or_default());

thread_local! {
    static RUNTIME: RefCell<Runtime> = RefCell::new(Runtime::default());
}

/// A compiled program.
#[derive(Clone, Debug)]
pub struct Program {
    compiled: Arc<vrl::compiler::Program>,
    node: Arc<Node>,
    place: Arc<str>,
    reads_value: bool,
    /// What it touches of the value; `None` may be all.
    reach: Option<Reach>,
    reads_metadata: Metadata,
    result: Kind,
    has_loop: bool,
    /// Its meaning, when that needs no runtime.
    plain: Option<Box<Plain>>,
}

/// What a program may do to the value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Change,
}

/// Compiles an expression: it gives a value and changes nothing. `None` after lints.
pub fn compile_expression(node: &Node, types: &Types, lints: &mut Lints) -> Option<Program> {
    compile(node, types, Access::Read, lints)
}

/// Compiles an expression that must give true or false.
pub fn compile_condition(node: &Node, types: &Types, lints: &mut Lints) -> Option<Program> {
    let program = compile_expression(node, types, lints)?;
    if program.result.is_boolean() {
        return Some(program);
    }
    lints.error(
        "not-a-condition",
        &node.span,
        format!("a condition is true or false, this may be {}", program.result.without_undefined()),
        "compare it, as in .live == true, or say that it is a boolean: bool!(.live)",
    );
    None
}

/// Compiles a program that may change `.`; afterwards `types` are those after it. `None` after lints.
pub fn compile_program(node: &Node, types: &mut Types, lints: &mut Lints) -> Option<Program> {
    let program = compile(node, types, Access::Change, lints)?;
    let text = node.expression().unwrap_or_default();
    let changes = !program.compiled.info().target_assignments.is_empty() || text.contains("del(");
    if !changes && !program.compiled.info().abortable {
        lints.warning(
            "map-without-effect",
            &node.span,
            "this program changes nothing",
            "assign to `.`, as in .total = 1 or . = {\"total\": 1}",
        );
    }
    let after = program.compiled.final_type_info().state.external.target_kind().clone();
    types.set_value(after);
    Some(program)
}

fn compile(node: &Node, types: &Types, access: Access, lints: &mut Lints) -> Option<Program> {
    let text = fields::expression(node, lints)?.value;
    // A mistake at the end stands after the last word, not on the line after the block.
    let text = text.trim_end();
    within_limits(text, node, lints)?;
    let mut config = CompileConfig::default();
    config.set_read_only_path(OwnedTargetPath::metadata_root(), true);
    if access == Access::Read {
        config.set_read_only_path(OwnedTargetPath::event_root(), true);
    }
    let compiled = match vrl::compiler::compile_with_external(text, &FUNCTIONS, &types.environment(), config)
    {
        Ok(compiled) => compiled,
        Err(diagnostics) => {
            report(&diagnostics, node, access, lints);
            return None;
        }
    };
    report(&compiled.warnings, node, access, lints);
    let info = compiled.program.info();
    let mut reads_metadata = Metadata::default();
    let mut is_known = true;
    for path in info.target_queries.iter().filter(|path| path.prefix == PathPrefix::Metadata) {
        is_known &= known_metadata(path, types, &mut reads_metadata, node, lints);
    }
    if !is_known {
        return None;
    }
    let paths = info.target_queries.iter().chain(&info.target_assignments);
    let reads_value = paths.clone().any(|path| path.prefix == PathPrefix::Event);
    let (line, _) = node.span.line_column();
    Some(Program {
        reads_value,
        reach: reach(info, text),
        reads_metadata,
        result: compiled.program.final_type_info().result.kind().clone(),
        has_loop: text.contains("->"),
        plain: Plain::of(text, info).map(Box::new),
        place: format!("{}:{line}", node.span.file.path.display()).into(),
        node: Arc::new(node.clone()),
        compiled: Arc::new(compiled.program),
    })
}

/// What a program touches of the value, if that is less than all.
fn reach(info: &ProgramInfo, text: &str) -> Option<Reach> {
    // What is removed is not among the assignments.
    if ["del", "remove", "unnest"].iter().any(|name| text.contains(name)) {
        return None;
    }
    let mut reach = Reach::default();
    let of_value = |path: &&OwnedTargetPath| path.prefix == PathPrefix::Event;
    let is_part = info.target_queries.iter().filter(of_value).all(|path| reach.read(&path.path))
        && info.target_assignments.iter().filter(of_value).all(|path| reach.set(&path.path));
    is_part.then_some(reach)
}

/// The parts of the value that these programs touch together, when they are few. Programs that need all of it are left
/// out: it is decoded for them when they run.
pub fn projection<'p>(programs: impl Iterator<Item = &'p Program>) -> Option<Projection> {
    Projection::of(
        programs.filter(|program| program.reads_value).filter_map(|program| program.reach.as_ref()),
    )
}

fn within_limits(text: &str, node: &Node, lints: &mut Lints) -> Option<()> {
    if text.len() > PROGRAM_BYTES_MAX {
        let message = format!("a program is at most {PROGRAM_BYTES_MAX} bytes long");
        lints.error("bad-expression", &node.span, message, "split it into several `map` stages");
        return None;
    }
    // The compiler recurses. Brackets in text count as well: an author far below the limit never notices.
    let (mut depth, mut run) = (0_usize, 0_usize);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        run = if matches!(byte, b'!' | b'-') { run + 1 } else { 0 };
        if depth > PROGRAM_DEPTH_MAX || run > PROGRAM_DEPTH_MAX {
            let message = format!("a program nests at most {PROGRAM_DEPTH_MAX} levels deep");
            lints.error("bad-expression", &node.span, message, "give parts of it names of their own");
            return None;
        }
    }
    Some(())
}

/// Notes that `path` is read; false, after a lint, when there is no such metadata.
fn known_metadata(
    path: &OwnedTargetPath,
    types: &Types,
    reads: &mut Metadata,
    node: &Node,
    lints: &mut Lints,
) -> bool {
    let mut segments = path.path.segments.iter();
    let Some(OwnedSegment::Field(name)) = segments.next() else {
        *reads = Metadata::ALL;
        return true;
    };
    if !reads.add(name.as_str()) {
        let span = word(node, &format!("%{}", name.as_str()));
        lints.error(
            "unknown-metadata",
            &span,
            format!("there is no metadata `%{}`", name.as_str()),
            nearest(name.as_str(), FIELDS).map_or_else(
                || format!("known: %{}", FIELDS.join(", %")),
                |near| format!("did you mean `%{near}`?"),
            ),
        );
        return false;
    }
    let (true, Some(OwnedSegment::Field(id))) = (name.as_str() == "stages", segments.next()) else {
        return true;
    };
    let known: Vec<&str> = types.stages().collect();
    if known.contains(&id.as_str()) {
        return true;
    }
    let span = word(node, &format!("%stages.{}", id.as_str()));
    let help = if known.is_empty() {
        String::from(
            "stages that answer are `http`, `sql` and `for_each` with an `id`; none stands before this",
        )
    } else {
        suggestion(id.as_str(), &known)
    };
    lints.error("unknown-stage-id", &span, format!("no stage `{}` answers before this", id.as_str()), help);
    false
}

/// Where `word` stands in the program; all of it when it is not found as written.
fn word(node: &Node, word: &str) -> Span {
    match node.expression().and_then(|text| text.find(word)) {
        Some(at) => stretch(node, at, at + word.len()),
        None => node.span.clone(),
    }
}

/// The stretch of the file in which bytes `start..end` of the program stand, widened to whole characters: the
/// compiler counts some of its places in bytes.
fn stretch(node: &Node, start: usize, end: usize) -> Span {
    let source = &node.span.file.text;
    let begin = source.floor_char_boundary(node.place_in_text(start));
    let last = if end > start { source.ceil_char_boundary(node.place_in_text(end)) } else { begin };
    Span { file: Arc::clone(&node.span.file), start: begin, end: last.max(begin) }
}

/// Turns the compiler's diagnostics into lints, with their places in the file.
fn report(diagnostics: &DiagnosticList, node: &Node, access: Access, lints: &mut Lints) {
    for diagnostic in diagnostics.iter() {
        let label = diagnostic.labels().iter().find(|label| label.primary).or(diagnostic.labels().first());
        let span = match label {
            Some(label) => stretch(node, label.span.start(), label.span.end()),
            None => node.span.clone(),
        };
        let mut message = diagnostic.message().to_owned();
        if let Some(label) = label.filter(|label| !label.message.is_empty() && label.message != message) {
            message = format!("{message}: {}", label.message);
        }
        let help = help(diagnostic, access);
        if diagnostic.is_problem() {
            lints.error("bad-expression", &span, message, help);
        } else {
            lints.warning("odd-expression", &span, message, help);
        }
    }
}

/// What the compiler proposes, on one line.
fn help(diagnostic: &Diagnostic, access: Access) -> String {
    if diagnostic.message().contains("read-only") && access == Access::Read {
        return String::from("an expression only reads; change the event in a `map` stage");
    }
    let mut parts: Vec<String> = diagnostic
        .labels()
        .iter()
        .filter(|label| !label.primary && !label.message.is_empty())
        .map(|label| label.message.clone())
        .collect();
    for note in diagnostic.notes() {
        match note {
            Note::Hint(_)
            | Note::Example(_)
            | Note::CoerceValue
            | Note::Basic(_)
            | Note::UserErrorMessage(_) => {
                let note = note.to_string().trim().to_owned();
                if !note.is_empty() {
                    parts.push(note);
                }
            }
            _ => {}
        }
    }
    parts.dedup();
    parts.join("; ")
}

impl Program {
    /// Kind of its result.
    pub fn result(&self) -> &Kind {
        &self.result
    }

    /// Where its text stands: `pipelines/a.yaml:12`.
    pub fn place(&self) -> &Arc<str> {
        &self.place
    }

    /// Whether it looks at the value, so that the value has to be decoded for it.
    pub fn reads_value(&self) -> bool {
        self.reads_value
    }

    /// Whether it needs all of the value.
    pub fn decodes_whole(&self) -> bool {
        self.reads_value && self.reach.is_none()
    }

    /// Whether it may put a new value in place of the old.
    pub fn replaces(&self) -> bool {
        let is_whole = |path: &OwnedTargetPath| path.prefix == PathPrefix::Event && path.path.is_root();
        self.compiled.info().target_assignments.iter().any(is_whole)
    }

    /// The same without the short cut; `None` when there is none.
    #[cfg(test)]
    pub(super) fn under_the_runtime(&self) -> Option<Self> {
        self.plain.as_ref().map(|_| Self { plain: None, ..self.clone() })
    }

    /// Its result when it is the same for every event: `true` in `when: true`.
    pub fn constant(&self) -> Option<Value> {
        let info = self.compiled.info();
        let is_closed = info.target_queries.is_empty() && info.target_assignments.is_empty();
        let text = self.node.expression()?.trim();
        (is_closed && matches!(text, "true" | "false")).then(|| Value::Boolean(text == "true"))
    }

    /// Gives the program's value.
    ///
    /// # Errors
    /// [`FaultClass::Poison`] when the event's value cannot be decoded, [`FaultClass::Bug`] for an error at run time,
    /// [`FaultClass::Permanent`] for `abort`: the author has decided that this event cannot be worked on.
    pub fn evaluate(&self, scope: &mut Scope<'_>) -> Result<Value, Fault> {
        scope.prepare(self.reads_value, self.reach.as_ref(), self.reads_metadata)?;
        if !self.reads_value || !scope.is_part() {
            return self.run(scope);
        }
        let changes = self.compiled.info().target_assignments.iter();
        let before = (changes.count() > 0).then(|| scope.remember());
        let outcome = self.run(scope);
        if !scope.has_missed() {
            return outcome;
        }
        // The compiler did not tell of everything that the program touches.
        if let Some(before) = before {
            scope.restore(before);
        }
        scope.decode()?;
        self.run(scope)
    }

    fn run(&self, scope: &mut Scope<'_>) -> Result<Value, Fault> {
        if let Some(plain) = &self.plain {
            return Ok(plain.resolve(scope));
        }
        let outcome = RUNTIME.with_borrow_mut(|runtime| {
            runtime.clear();
            if self.has_loop {
                let mut left = EXPRESSIONS_MAX;
                let mut control = || {
                    left = left.saturating_sub(1);
                    if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                runtime.resolve_with_control(scope, &self.compiled, &UTC, &mut control)
            } else {
                runtime.resolve(scope, &self.compiled, &UTC)
            }
        });
        outcome.map_err(|end| self.fault(end))
    }

    /// Gives the truth of a condition ([`compile_condition`]).
    ///
    /// # Errors
    /// As [`Program::evaluate`].
    pub fn holds(&self, scope: &mut Scope<'_>) -> Result<bool, Fault> {
        Ok(self.evaluate(scope)? == Value::Boolean(true))
    }

    /// Lets the program change the scope's value. When it fails the value is as it was.
    ///
    /// # Errors
    /// As [`Program::evaluate`].
    pub fn transform(&self, scope: &mut Scope<'_>) -> Result<(), Fault> {
        let info = self.compiled.info();
        let before = (info.fallible || info.abortable || self.has_loop).then(|| scope.remember());
        match self.evaluate(scope) {
            Ok(_) => Ok(()),
            Err(fault) => {
                if let Some(before) = before {
                    scope.restore(before);
                }
                Err(fault)
            }
        }
    }

    fn fault(&self, end: Terminate) -> Fault {
        match end {
            Terminate::Interrupted => Fault::new(
                FaultClass::Bug,
                format!("{}: the program takes more than {EXPRESSIONS_MAX} steps", self.place),
            ),
            Terminate::Abort(ExpressionError::Abort { span, message }) => {
                let message = message.unwrap_or_else(|| String::from("no reason given"));
                Fault::new(FaultClass::Permanent, format!("{}: aborted: {message}", self.line(span.start())))
            }
            Terminate::Abort(error) | Terminate::Error(error) => {
                let (place, message) = self.explain(error);
                Fault::new(FaultClass::Bug, format!("{place}: {message}"))
            }
        }
    }

    /// Place and message of an error. The compiler wraps the message once for each call it passes through, naming
    /// places in the program; the innermost place is given as a line of the file instead.
    fn explain(&self, error: ExpressionError) -> (String, String) {
        match error {
            ExpressionError::Error { message, labels, .. } => {
                let place = labels
                    .first()
                    .map_or_else(|| self.place.to_string(), |label| self.line(label.span.start()));
                (place, unwrapped(&message))
            }
            other => (self.place.to_string(), other.to_string()),
        }
    }

    /// The line of the file in which byte `offset` of the program stands.
    fn line(&self, offset: usize) -> String {
        let (line, _) = stretch(&self.node, offset, offset).line_column();
        format!("{}:{line}", self.node.span.file.path.display())
    }
}

/// `function call error for "int" at (3:9): expected integer` as `int: expected integer`.
fn unwrapped(message: &str) -> String {
    let Some(rest) = message.strip_prefix("function call error for \"") else { return message.to_owned() };
    let Some((name, rest)) = rest.split_once("\" at (") else { return message.to_owned() };
    let Some((_, inner)) = rest.split_once("): ") else { return message.to_owned() };
    if inner.starts_with("function call error for \"") {
        return unwrapped(inner);
    }
    format!("{name}: {inner}")
}
