//! What the project means: names resolved, defaults filled, types checked.
