//! A member of a group, and how it is answered.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::wire::*;

pub(super) struct Member {
    pub instance: Option<String>,
    pub client: String,
    pub session: Duration,
    pub rebalance: Duration,
    /// Names and metadata of what it can do, the preferred first.
    pub protocols: Vec<(String, Bytes)>,
    pub assignment: Bytes,
    /// Without a sign of life until then it is removed.
    pub deadline: Instant,
    /// It has asked for its assignment in this generation.
    pub synced: bool,
    pub join: Option<oneshot::Sender<JoinGroupResponse>>,
    pub sync: Option<oneshot::Sender<SyncGroupResponse>>,
}

impl Member {
    pub(super) fn new(ask: &JoinGroupRequest, client: &str, now: Instant) -> Self {
        let mut member = Self {
            instance: ask.group_instance_id.as_ref().map(ToString::to_string),
            client: client.to_owned(),
            session: Duration::ZERO,
            rebalance: Duration::ZERO,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            deadline: now,
            synced: false,
            join: None,
            sync: None,
        };
        member.update(ask, now);
        member
    }

    pub(super) fn update(&mut self, ask: &JoinGroupRequest, now: Instant) {
        self.session = millis(ask.session_timeout_ms);
        // Before version 1 there was only the session's.
        let rebalance =
            if ask.rebalance_timeout_ms > 0 { ask.rebalance_timeout_ms } else { ask.session_timeout_ms };
        self.rebalance = millis(rebalance);
        self.protocols = protocols(ask);
        self.deadline = now + self.session;
    }

    pub(super) fn answer_join(&mut self, response: JoinGroupResponse) {
        if let Some(join) = self.join.take() {
            let _ = join.send(response);
        }
    }

    pub(super) fn answer_sync(&mut self, response: SyncGroupResponse) {
        if let Some(sync) = self.sync.take() {
            let _ = sync.send(response);
        }
    }

    /// Ends whatever it waits for.
    pub(super) fn refuse(&mut self, error: ResponseError, id: &str) {
        self.answer_join(refused_join(error, id));
        self.answer_sync(refused_sync(error));
    }

    /// What it told of itself for `protocol`.
    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        let own = self.protocols.iter().find(|(name, _)| name == protocol);
        own.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }
}

pub(super) fn refused_join(error: ResponseError, id: &str) -> JoinGroupResponse {
    made!(JoinGroupResponse { error_code: error.code(), member_id: text(id.to_owned()) })
}

pub(super) fn refused_sync(error: ResponseError) -> SyncGroupResponse {
    made!(SyncGroupResponse { error_code: error.code() })
}

/// Copies: what a request holds would keep all of its bytes in memory.
pub(super) fn protocols(ask: &JoinGroupRequest) -> Vec<(String, Bytes)> {
    ask.protocols.iter().map(|one| (one.name.to_string(), Bytes::copy_from_slice(&one.metadata))).collect()
}

pub(super) fn millis(number: i32) -> Duration {
    Duration::from_millis(u64::try_from(number).unwrap_or(0))
}
