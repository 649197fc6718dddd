//! Avro's binary encoding, as far as it is the same for every schema: numbers, lengths, text.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use crate::schema::error::SchemaError;

/// Scale of the ledger's decimals: billionths.
pub const DECIMAL_SCALE: u32 = 9;

/// Writes `value` as a zigzag varint (Avro's int and long).
pub fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Writes length and bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

/// Writes text that may be absent, for the union `["null", "string"]`.
pub fn put_optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => put_long(out, 0),
        Some(text) => {
            put_long(out, 1);
            put_bytes(out, text.as_bytes());
        }
    }
}

/// Writes a time as microseconds since 1970.
pub fn put_time(out: &mut Vec<u8>, time: DateTime<Utc>) {
    put_long(out, time.timestamp_micros());
}

/// The shortest two's complement of `unscaled`, big endian, with its length before it.
pub fn put_unscaled(out: &mut Vec<u8>, unscaled: i128) {
    let bytes = unscaled.to_be_bytes();
    let sign: u8 = if unscaled < 0 { 0xff } else { 0 };
    let mut from = 0;
    while from < 15 && bytes[from] == sign && (bytes[from + 1] & 0x80) == (sign & 0x80) {
        from += 1;
    }
    put_bytes(out, &bytes[from..]);
}

/// The two's complement of `unscaled` in `size` bytes, big endian. `None` when it does not fit.
pub fn put_fixed_unscaled(out: &mut Vec<u8>, unscaled: i128, size: usize) -> Option<()> {
    let bytes = unscaled.to_be_bytes();
    let sign: u8 = if unscaled < 0 { 0xff } else { 0 };
    if size >= 16 {
        out.resize(out.len() + size - 16, sign);
        out.extend_from_slice(&bytes);
        return Some(());
    }
    let (cut, kept) = bytes.split_at(16 - size);
    let fits =
        cut.iter().all(|byte| *byte == sign) && kept.first().is_none_or(|byte| (byte ^ sign) & 0x80 == 0);
    fits.then(|| out.extend_from_slice(kept))
}

/// `value` in units of 10^-`scale`, rounded half to even where it has more digits. `None` when it does not fit.
pub fn unscaled(value: Decimal, scale: u32) -> Option<i128> {
    let value = if value.scale() > scale { value.round_dp(scale) } else { value };
    10_i128
        .checked_pow(scale - value.scale().min(scale))
        .and_then(|factor| value.mantissa().checked_mul(factor))
}

/// The decimal of `unscaled` units of 10^-`scale`; `None` when it has more than 28 significant digits.
pub fn decimal(mut unscaled: i128, mut scale: u32) -> Option<Decimal> {
    loop {
        if let Ok(value) = Decimal::try_from_i128_with_scale(unscaled, scale) {
            return Some(value.normalize());
        }
        if scale == 0 || unscaled % 10 != 0 {
            return None;
        }
        unscaled /= 10;
        scale -= 1;
    }
}

/// Items of lists in one datum that may take no bytes, as nulls do. So few bytes cannot become any number of them.
pub const EMPTY_ITEMS_MAX: usize = 1_000;

/// How many values of any kind (fields, items) may take no bytes in a datum of `bytes`: types that hold one another
/// twice, with nothing at the bottom, are any number of values in no bytes at all.
pub fn empty_values_max(bytes: usize) -> usize {
    EMPTY_ITEMS_MAX + bytes.saturating_mul(8)
}

/// Reads a datum from front to back. Every length is checked against what is left.
pub struct Wire<'a> {
    rest: &'a [u8],
    /// How many items of arrays and maps may still come.
    items_left: usize,
    /// How many values that take no bytes may still come.
    empty_left: usize,
}

impl<'a> Wire<'a> {
    /// Reads `datum`.
    pub fn new(datum: &'a [u8]) -> Self {
        Self {
            rest: datum,
            items_left: datum.len() + EMPTY_ITEMS_MAX,
            empty_left: empty_values_max(datum.len()),
        }
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Counts a value that was read since `before` bytes were left, if it took none.
    pub fn read_since(&mut self, before: usize) -> Result<(), SchemaError> {
        if self.rest.len() == before {
            let left = self.empty_left.checked_sub(1);
            self.empty_left = left.ok_or_else(|| SchemaError::corrupt("too many values without content"))?;
        }
        Ok(())
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), SchemaError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(SchemaError::corrupt(format!("{} bytes are left over", self.rest.len())))
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], SchemaError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(SchemaError::corrupt(format!("{count} bytes wanted, {} are left", self.rest.len())));
        };
        self.rest = rest;
        Ok(taken)
    }

    pub fn long(&mut self) -> Result<i64, SchemaError> {
        let mut value: u64 = 0;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[at + 1..];
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(SchemaError::corrupt("a number does not end"))
    }

    pub fn int(&mut self) -> Result<i32, SchemaError> {
        let value = self.long()?;
        i32::try_from(value).map_err(|_| SchemaError::corrupt(format!("{value} is no int")))
    }

    pub fn boolean(&mut self) -> Result<bool, SchemaError> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            other => Err(SchemaError::corrupt(format!("{other:?} is no boolean"))),
        }
    }

    pub fn float(&mut self) -> Result<f32, SchemaError> {
        let bytes = self.take(4)?.try_into().expect("take gives as many bytes as asked for");
        Ok(f32::from_le_bytes(bytes))
    }

    pub fn double(&mut self) -> Result<f64, SchemaError> {
        let bytes = self.take(8)?.try_into().expect("take gives as many bytes as asked for");
        Ok(f64::from_le_bytes(bytes))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], SchemaError> {
        let length = self.long()?;
        let length =
            usize::try_from(length).map_err(|_| SchemaError::corrupt(format!("{length} is no length")))?;
        self.take(length)
    }

    pub fn text(&mut self) -> Result<&'a str, SchemaError> {
        std::str::from_utf8(self.bytes()?)
            .map_err(|error| SchemaError::corrupt(format!("text is not UTF-8: {error}")))
    }

    pub fn optional_text(&mut self) -> Result<Option<&'a str>, SchemaError> {
        match self.long()? {
            0 => Ok(None),
            1 => self.text().map(Some),
            branch => Err(SchemaError::corrupt(format!("a union of two has no branch {branch}"))),
        }
    }

    pub fn time(&mut self) -> Result<DateTime<Utc>, SchemaError> {
        let micros = self.long()?;
        DateTime::from_timestamp_micros(micros)
            .ok_or_else(|| SchemaError::corrupt(format!("{micros} microseconds are no time")))
    }

    /// A decimal's unscaled value.
    pub fn unscaled(&mut self) -> Result<i128, SchemaError> {
        unscaled_of(self.bytes()?)
    }

    /// Length of the next block of an array or map; 0 ends it. A negative count is followed by the block's size.
    pub fn block(&mut self) -> Result<usize, SchemaError> {
        let mut count = self.long()?;
        if count < 0 {
            self.long()?;
            count = count.checked_neg().ok_or_else(|| SchemaError::corrupt("a block has no such length"))?;
        }
        let count = usize::try_from(count).map_err(|_| SchemaError::corrupt("a block is too long"))?;
        // Every item but null takes a byte; many more nulls than bytes are an attack, not data.
        let bytes = self.rest.len();
        let too_many = || SchemaError::corrupt(format!("a block of {count} items in {bytes} bytes"));
        self.items_left = self.items_left.checked_sub(count).ok_or_else(too_many)?;
        Ok(count)
    }
}

/// A decimal's unscaled value from its two's complement.
pub fn unscaled_of(bytes: &[u8]) -> Result<i128, SchemaError> {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let sign = if negative { 0xff } else { 0 };
    let significant = bytes.iter().position(|byte| *byte != sign).unwrap_or(bytes.len());
    let tail = &bytes[significant..];
    let mut full = [sign; 16];
    if tail.len() > 16 {
        return Err(SchemaError::corrupt("a decimal has more than 38 digits"));
    }
    full[16 - tail.len()..].copy_from_slice(tail);
    let value = i128::from_be_bytes(full);
    if (value < 0) != negative && value != 0 {
        return Err(SchemaError::corrupt("a decimal has more than 38 digits"));
    }
    Ok(value)
}
