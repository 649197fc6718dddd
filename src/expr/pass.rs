//! One pass over a JSON text that checks all of it and decodes only what is looked for.

use std::ops::Range;

use crate::expr::projection::{FIELDS_MAX, NOWHERE, Place, Projection};
use crate::expr::{Key, Object, Value, values};

/// Nesting that the pass follows; decoding follows 128 levels.
const DEPTH_MAX: usize = 64;
/// A number of so few digits is within the range of a float.
const DIGITS_MAX: usize = 200;

/// What was found in the outermost object.
pub(super) struct Outermost {
    pub(super) found: Object,
    /// Where the values of its fields stand that are looked at, by their numbers.
    pub(super) places: [Place; FIELDS_MAX],
    /// Where it is closed.
    pub(super) end: usize,
    /// Whether it has no fields.
    pub(super) is_empty: bool,
}

/// Goes over `text`, which is UTF-8. `None` gives up.
pub(super) fn outermost(projection: &Projection, text: &[u8]) -> Option<Outermost> {
    let mut pass = Pass { text, at: 0, places: [NOWHERE; FIELDS_MAX], is_empty: true };
    let mut found = Object::new();
    pass.skip_space();
    pass.object(projection, 0, 0, &mut found)?;
    let Pass { at: end, places, is_empty, .. } = pass;
    pass.skip_space();
    (pass.at == text.len()).then_some(Outermost { found, places, end: end - 1, is_empty })
}

/// `None` gives up.
struct Pass<'t> {
    text: &'t [u8],
    at: usize,
    places: [Place; FIELDS_MAX],
    is_empty: bool,
}

impl Pass<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Goes past the brace or bracket that opens here; false when `close` follows, which it goes past too.
    fn begins(&mut self, close: u8) -> Option<bool> {
        self.at += 1;
        self.skip_space();
        let is_empty = self.peek()? == close;
        self.at += usize::from(is_empty);
        Some(!is_empty)
    }

    /// Goes past what follows a member: true at a comma, false at `close`.
    fn goes_on(&mut self, close: u8) -> Option<bool> {
        self.skip_space();
        let byte = self.peek()?;
        if byte != b',' && byte != close {
            return None;
        }
        self.at += 1;
        if byte == b',' {
            self.skip_space();
        }
        Some(byte == b',')
    }

    /// The object of `node`, which begins here.
    fn object(
        &mut self,
        projection: &Projection,
        node: usize,
        depth: usize,
        found: &mut Object,
    ) -> Option<()> {
        if self.peek()? != b'{' {
            return None;
        }
        if !self.begins(b'}')? {
            return Some(());
        }
        if node == 0 {
            self.is_empty = false;
        }
        let fields = &projection.nodes[node].fields;
        let mut seen = 0_u64;
        loop {
            let name = self.name()?;
            self.skip_space();
            self.take(b':')?;
            self.skip_space();
            let name = &self.text[name];
            // Most names differ in their lengths or first bytes.
            let is_it = |own: &str| {
                own.len() == name.len() && own.as_bytes().first() == name.first() && own.as_bytes() == name
            };
            match fields.iter().position(|(own, _)| is_it(own)) {
                None => self.skip_value(depth + 1)?,
                Some(number) => {
                    // There are at most as many paths.
                    let bit = 1_u64 << number;
                    if seen & bit != 0 {
                        return None;
                    }
                    seen |= bit;
                    let (name, child) = &fields[number];
                    let from = self.at;
                    self.part(projection, *child, depth + 1, (name, &mut *found))?;
                    if node == 0 {
                        self.places[number] = (from as u32, self.at as u32);
                    }
                }
            }
            if !self.goes_on(b'}')? {
                return Some(());
            }
        }
    }

    /// The value of a field that is looked at, and where it is to go.
    fn part(
        &mut self,
        projection: &Projection,
        node: usize,
        depth: usize,
        (name, found): (&str, &mut Object),
    ) -> Option<()> {
        let own = &projection.nodes[node];
        if own.is_whole {
            let from = self.at;
            self.skip_value(depth)?;
            found.insert(Key::from(name), decoded(&self.text[from..self.at])?);
        } else if self.peek()? == b'{' && !own.fields.is_empty() {
            if depth > DEPTH_MAX {
                return None;
            }
            let mut inner = Object::new();
            self.object(projection, node, depth, &mut inner)?;
            found.insert(Key::from(name), Value::Object(inner));
        } else {
            // Only where it stands matters; or nothing of what is looked for is in it.
            self.skip_value(depth)?;
        }
        Some(())
    }

    /// The name of a field.
    fn name(&mut self) -> Option<Range<usize>> {
        self.take(b'"')?;
        let from = self.at;
        let to = self.run();
        self.take(b'"')?;
        Some(from..to)
    }

    /// Goes to the next quote, backslash or control character, and says where that is.
    fn run(&mut self) -> usize {
        while let Some(chunk) = self.text.get(self.at..).and_then(<[u8]>::first_chunk) {
            let at = first_special(chunk);
            self.at += at;
            if at < chunk.len() {
                return self.at;
            }
        }
        while self.peek().is_some_and(|byte| byte != b'"' && byte != b'\\' && byte >= 0x20) {
            self.at += 1;
        }
        self.at
    }

    fn skip_value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.skip_text(),
            b'{' => self.skip_object(depth),
            b'[' => self.skip_list(depth),
            b't' => self.skip_word(b"true"),
            b'f' => self.skip_word(b"false"),
            b'n' => self.skip_word(b"null"),
            _ => self.skip_number(),
        }
    }

    fn skip_word(&mut self, word: &[u8]) -> Option<()> {
        self.text[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    fn skip_text(&mut self) -> Option<()> {
        self.take(b'"')?;
        loop {
            self.run();
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => {
                    let escape = *self.text.get(self.at + 1)?;
                    self.at += 2;
                    match escape {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => self.skip_code()?,
                        _ => return None,
                    }
                }
                _ => return None,
            }
        }
    }

    /// Four hexadecimal digits. Halves of surrogate pairs are left to the decoder.
    fn skip_code(&mut self) -> Option<()> {
        let digits = self.text.get(self.at..self.at + 4)?;
        let is_code = digits.iter().all(u8::is_ascii_hexdigit);
        let is_half = matches!(digits, [b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F', ..]);
        (is_code && !is_half).then(|| self.at += 4)
    }

    fn skip_number(&mut self) -> Option<()> {
        let from = self.at;
        if self.peek()? == b'-' {
            self.at += 1;
        }
        let whole = self.skip_digits();
        let has_zeros = whole > 1 && self.text[self.at - whole] == b'0';
        if whole == 0 || has_zeros {
            return None;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.skip_digits() == 0 {
                return None;
            }
        }
        let is_plain = !matches!(self.peek(), Some(b'e' | b'E'));
        (is_plain && self.at - from <= DIGITS_MAX).then_some(())
    }

    fn skip_digits(&mut self) -> usize {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - from
    }

    fn skip_object(&mut self, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        if !self.begins(b'}')? {
            return Some(());
        }
        loop {
            self.skip_text()?;
            self.skip_space();
            self.take(b':')?;
            self.skip_space();
            self.skip_value(depth + 1)?;
            if !self.goes_on(b'}')? {
                return Some(());
            }
        }
    }

    fn skip_list(&mut self, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        if !self.begins(b']')? {
            return Some(());
        }
        loop {
            self.skip_value(depth + 1)?;
            if !self.goes_on(b']')? {
                return Some(());
            }
        }
    }
}

/// Bytes that are looked at together.
const CHUNK_BYTES: usize = 16;

/// Where the first quote, backslash or control character stands; the chunk's length when there is none.
#[cfg(target_arch = "x86_64")]
fn first_special(chunk: &[u8; CHUNK_BYTES]) -> usize {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };
    #[target_feature(enable = "sse2")]
    fn hits(chunk: &[u8; CHUNK_BYTES]) -> u32 {
        let word = i128::from_le_bytes(*chunk);
        let bytes = _mm_set_epi64x((word >> 64) as i64, word as i64);
        let quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
        let slashes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
        // Bytes that are the smaller of themselves and the last control character.
        let controls = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quotes, slashes), controls)) as u32
    }
    // SAFETY: every processor of this architecture has SSE2.
    let hits = unsafe { hits(chunk) };
    (hits | 1 << CHUNK_BYTES).trailing_zeros() as usize
}

/// Where the first quote, backslash or control character stands; the chunk's length when there is none.
#[cfg(not(target_arch = "x86_64"))]
fn first_special(chunk: &[u8; CHUNK_BYTES]) -> usize {
    let is_special = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
    chunk.iter().position(is_special).unwrap_or(CHUNK_BYTES)
}

/// A value whose text has been checked.
fn decoded(text: &[u8]) -> Option<Value> {
    match text {
        b"true" => Some(Value::Boolean(true)),
        b"false" => Some(Value::Boolean(false)),
        b"null" => Some(Value::Null),
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
            std::str::from_utf8(inner).ok().map(Value::from)
        }
        _ => values::from_json_bytes(text).ok(),
    }
}
