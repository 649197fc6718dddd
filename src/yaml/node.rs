//! A YAML file as a tree of nodes with their places.
//!
//! Anchors, aliases, tags, merge keys and several documents in one file are refused: a project file says what it
//! says where it says it. Scalars follow the YAML 1.2 core schema.

use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};

use crate::yaml::lint::{Lints, SourceFile, Span};

/// How deep nodes may nest.
const DEPTH_MAX: usize = 64;

/// A node and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where.
    pub span: Span,
    /// What.
    pub value: Yaml,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Yaml {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(Text),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order written. Keys are unique.
    Map(Vec<(Key, Node)>),
}

/// A mapping's key.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key's text.
    pub name: String,
    /// Where it stands.
    pub span: Span,
}

/// A text scalar.
#[derive(Clone, Debug)]
pub struct Text {
    /// The text, unescaped and unfolded.
    pub text: String,
    /// Whether it was written as a block (`|` or `>`).
    pub is_block: bool,
    /// Whether it was written in quotes.
    pub is_quoted: bool,
}

impl Node {
    /// What kind of node this is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Yaml::Null => "nothing",
            Yaml::Bool(_) => "a boolean",
            Yaml::Int(_) | Yaml::Float(_) => "a number",
            Yaml::Text(_) => "text",
            Yaml::List(_) => "a list",
            Yaml::Map(_) => "a mapping",
        }
    }

    /// The text of a scalar just as it was written in the file, for a place that takes an expression.
    /// `None` for lists, mappings and nothing.
    pub fn expression(&self) -> Option<&str> {
        match &self.value {
            Yaml::Text(text) => Some(&text.text),
            Yaml::Bool(_) | Yaml::Int(_) | Yaml::Float(_) => {
                Some(&self.span.file.text[self.span.start..self.span.end])
            }
            Yaml::Null | Yaml::List(_) | Yaml::Map(_) => None,
        }
    }

    /// Where byte `offset` of this scalar's text stands in the file: VRL counts from the begin of its program, and
    /// its messages must point into the YAML. Exact for plain, simply quoted and literal block (`|`) scalars.
    pub fn place_in_text(&self, offset: usize) -> usize {
        let source = &self.span.file.text;
        let Yaml::Text(text) = &self.value else {
            return (self.span.start + offset).min(source.len());
        };
        if !text.is_block {
            let quote = usize::from(text.is_quoted);
            return (self.span.start + quote + offset).min(self.span.end);
        }
        let lines_before = text.text.get(..offset).unwrap_or(&text.text).matches('\n').count();
        let column = offset - text.text.get(..offset).unwrap_or("").rfind('\n').map_or(0, |at| at + 1);
        let header_end = self.block_begin();
        let indent = source[header_end..]
            .lines()
            .find(|line| !line.trim().is_empty())
            .map_or(0, |line| line.len() - line.trim_start_matches(' ').len());
        let mut at = header_end;
        for _ in 0..lines_before {
            match source[at..].find('\n') {
                Some(next) => at += next + 1,
                None => return source.len(),
            }
        }
        (at + indent + column).min(source.len())
    }

    /// First byte of the line on which a block scalar's text begins: its span starts at the `|` or, as the parser
    /// reports some blocks, at the text itself.
    fn block_begin(&self) -> usize {
        let source = &self.span.file.text;
        if source[self.span.start..].starts_with(['|', '>']) {
            return source[self.span.start..].find('\n').map_or(source.len(), |at| self.span.start + at + 1);
        }
        source[..self.span.start].rfind('\n').map_or(0, |at| at + 1)
    }
}

/// Parses a file. `None` when it is no YAML (said in `lints`).
pub fn parse(file: &Arc<SourceFile>, lints: &mut Lints) -> Option<Node> {
    let mut reader = Reader {
        parser: Parser::new_from_str(&file.text),
        file: Arc::clone(file),
        bytes: byte_offsets(&file.text),
        lints,
    };
    reader.document()
}

/// Byte offset of each character, or nothing when all characters are one byte.
fn byte_offsets(text: &str) -> Vec<usize> {
    if text.is_ascii() {
        return Vec::new();
    }
    text.char_indices().map(|(at, _)| at).collect()
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    file: Arc<SourceFile>,
    bytes: Vec<usize>,
    lints: &'a mut Lints,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Option<Node> {
        let mut root = None;
        let mut documents = 0;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        self.refuse(&span, "a file holds one document", "move this to a file of its own");
                        return None;
                    }
                }
                Event::StreamEnd => break,
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
                other => root = Some(self.node(other, span, 0)?),
            }
        }
        Some(root.unwrap_or(Node { span: self.span(0, 0), value: Yaml::Null }))
    }

    /// The next event; `Some(None)` at the end, `None` when the text is no YAML.
    #[allow(
        clippy::option_option,
        reason = "end of input and broken input are two things, and both end here"
    )]
    fn next(&mut self) -> Option<Option<(Event<'a>, Span)>> {
        match self.parser.next_event() {
            None => Some(None),
            Some(Ok((event, span))) => {
                let span = self.span(span.start.index(), span.end.index());
                Some(Some((event, span)))
            }
            Some(Err(error)) => {
                self.broken(&error);
                None
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Option<Node> {
        if depth > DEPTH_MAX {
            self.refuse(&span, "nested too deep", format!("at most {DEPTH_MAX} levels"));
            return None;
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.untagged(anchor, tag.is_some(), &span)?;
                Some(self.scalar(&text, style, span))
            }
            Event::SequenceStart(anchor, tag) => {
                self.untagged(anchor, tag.is_some(), &span)?;
                self.list(span, depth)
            }
            Event::MappingStart(anchor, tag) => {
                self.untagged(anchor, tag.is_some(), &span)?;
                self.map(span, depth)
            }
            _ => {
                self.refuse(&span, "aliases are not used in project files", "write the value itself");
                None
            }
        }
    }

    fn untagged(&mut self, anchor: usize, has_tag: bool, span: &Span) -> Option<()> {
        if anchor == 0 && !has_tag {
            return Some(());
        }
        self.refuse(span, "anchors and tags are not used in project files", "write the value itself");
        None
    }

    fn scalar(&self, text: &str, style: ScalarStyle, span: Span) -> Node {
        let value = if style == ScalarStyle::Plain {
            plain(text)
        } else {
            Yaml::Text(Text {
                text: text.to_owned(),
                is_block: matches!(style, ScalarStyle::Literal | ScalarStyle::Folded),
                is_quoted: matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted),
            })
        };
        Node { span, value }
    }

    fn list(&mut self, span: Span, depth: usize) -> Option<Node> {
        let mut items = Vec::new();
        loop {
            let (event, item) = self.next()??;
            if matches!(event, Event::SequenceEnd) {
                let span = self.span_between(&span, &item);
                return Some(Node { span, value: Yaml::List(items) });
            }
            items.push(self.node(event, item, depth + 1)?);
        }
    }

    fn map(&mut self, span: Span, depth: usize) -> Option<Node> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let (event, at) = self.next()??;
            let name = match event {
                Event::MappingEnd => {
                    let span = self.span_between(&span, &at);
                    return Some(Node { span, value: Yaml::Map(entries) });
                }
                Event::Scalar(name, ..) => name.into_owned(),
                _ => {
                    self.refuse(&at, "a key is plain text", "write a word here");
                    return None;
                }
            };
            let (event, value_at) = self.next()??;
            let value = self.node(event, value_at, depth + 1)?;
            if let Some((first, _)) = entries.iter().find(|(key, _)| key.name == name) {
                let (line, _) = first.span.line_column();
                self.lints.error(
                    "duplicate-key",
                    &at,
                    format!("`{name}` is written twice in one mapping"),
                    format!("it stands already in line {line}; remove one"),
                );
                continue;
            }
            entries.push((Key { name, span: at }, value));
        }
    }

    fn broken(&mut self, error: &ScanError) {
        let at = error.marker().index();
        let span = self.span(at, at);
        self.refuse(
            &span,
            error.info().to_owned(),
            "the file stops being YAML here: look for an open bracket or quote, or a wrong indent, above",
        );
    }

    fn refuse(&mut self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        self.lints.error("not-yaml", span, message, help);
    }

    fn span(&self, start: usize, end: usize) -> Span {
        let length = self.file.text.len();
        let byte = |index: usize| {
            if self.bytes.is_empty() {
                index.min(length)
            } else {
                self.bytes.get(index).copied().unwrap_or(length)
            }
        };
        Span { file: Arc::clone(&self.file), start: byte(start), end: byte(end) }
    }

    fn span_between(&self, start: &Span, end: &Span) -> Span {
        Span { file: Arc::clone(&self.file), start: start.start, end: end.end.max(start.start) }
    }
}

/// Resolves a plain scalar by the YAML 1.2 core schema.
fn plain(text: &str) -> Yaml {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Yaml::Null,
        "true" | "True" | "TRUE" => return Yaml::Bool(true),
        "false" | "False" | "FALSE" => return Yaml::Bool(false),
        _ => {}
    }
    let looks_numeric = text.trim_start_matches(['-', '+']).starts_with(|first: char| first.is_ascii_digit());
    if looks_numeric {
        if let Ok(number) = text.parse::<i64>() {
            return Yaml::Int(number);
        }
        let radix = |digits: &str, radix| i64::from_str_radix(digits, radix).ok();
        let in_radix = match text.split_at_checked(2) {
            Some(("0x", digits)) => radix(digits, 16),
            Some(("0o", digits)) => radix(digits, 8),
            _ => None,
        };
        if let Some(number) = in_radix {
            return Yaml::Int(number);
        }
        if let Some(number) = text.parse::<f64>().ok().filter(|number| number.is_finite()) {
            return Yaml::Float(number);
        }
    }
    Yaml::Text(Text { text: text.to_owned(), is_block: false, is_quoted: false })
}
