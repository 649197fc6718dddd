//! Composition root: builds clients, spawns roles, shuts down in order.
