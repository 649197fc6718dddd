//! What writing one value may cost: the value's size bounds it, not the ways in which it might be read.

use std::cell::Cell;

use crate::schema::wire::{self, EMPTY_ITEMS_MAX};

/// Steps in vain that any value may cost.
const IN_VAIN_MAX: usize = 10_000;
/// Steps in vain for each byte written, above that.
const IN_VAIN_PER_BYTE: usize = 64;

/// What writing one value has cost so far.
#[derive(Debug)]
pub struct Effort {
    /// Length of the buffer before the value.
    begin: usize,
    now: Cell<Cost>,
    is_over: Cell<bool>,
}

/// Counts at a moment.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cost {
    /// Values put, in vain or not.
    pub steps: usize,
    /// Those of union variants that turned out not to fit.
    pub in_vain: usize,
    /// List items that took no bytes.
    empty_items: usize,
    /// Values of any kind that took no bytes.
    empty_values: usize,
}

impl Effort {
    /// Of a value that is appended to a buffer of `begin` bytes.
    pub fn new(begin: usize) -> Self {
        Self { begin, now: Cell::default(), is_over: Cell::new(false) }
    }

    /// The counts now, to go back to with [`Effort::was_in_vain`].
    pub fn cost(&self) -> Cost {
        self.now.get()
    }

    /// Counts a value that is going to be put.
    pub fn step(&self) {
        self.now.update(|cost| Cost { steps: cost.steps + 1, ..cost });
    }

    /// Whether too much was tried: nothing else shall be.
    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// What was put since `before` does not stay; the buffer had grown to `len`. It may have been once too often.
    pub fn was_in_vain(&self, before: Cost, len: usize) {
        let steps = self.now.get().steps;
        // Tries inside of the try are among its steps.
        let in_vain = before.in_vain + (steps - before.steps);
        self.now.set(Cost { steps, in_vain, ..before });
        let bytes = len.saturating_sub(self.begin);
        self.is_over.set(in_vain > IN_VAIN_MAX + bytes.saturating_mul(IN_VAIN_PER_BYTE));
    }

    /// Counts a value that made the buffer grow from `before` to `after`.
    ///
    /// # Errors
    /// What would have been right, when it is one too many.
    pub fn wrote(&self, before: usize, after: usize) -> Result<(), String> {
        if before < after {
            return Ok(());
        }
        let empty_values = self.now.get().empty_values + 1;
        self.now.update(|cost| Cost { empty_values, ..cost });
        let max = wire::empty_values_max(after.saturating_sub(self.begin));
        if empty_values > max { Err(format!("at most {max} values without content")) } else { Ok(()) }
    }

    /// Counts a list's item that made the buffer grow from `before` to `after`.
    ///
    /// # Errors
    /// As [`Effort::wrote`].
    pub fn wrote_item(&self, before: usize, after: usize) -> Result<(), String> {
        if before < after {
            return Ok(());
        }
        let empty_items = self.now.get().empty_items + 1;
        self.now.update(|cost| Cost { empty_items, ..cost });
        if empty_items > EMPTY_ITEMS_MAX {
            return Err(format!("at most {EMPTY_ITEMS_MAX} items without content"));
        }
        Ok(())
    }
}
