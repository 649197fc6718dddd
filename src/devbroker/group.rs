//! A consumer group as the coordinator of the classic protocol keeps it.
//!
//! The rules are those of Kafka's `ClassicGroup` and `GroupMetadataManager`. Time is an argument; a member that waits
//! for the others is answered through its channel.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse};
use tokio::sync::oneshot;

use super::group_offsets::Offsets;
use super::member::{Member, millis, protocols, refused_join, refused_sync};
use super::server::text;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Phase {
    #[default]
    Empty,
    /// Waits for members to join.
    Preparing,
    /// Waits for the leader's assignment.
    Completing,
    Stable,
}

#[derive(Default)]
pub(super) struct Group {
    pub phase: Phase,
    pub generation: i32,
    pub protocol_type: String,
    pub protocol: Option<String>,
    leader: Option<String>,
    pub members: BTreeMap<String, Member>,
    /// Member of each `group.instance.id`.
    statics: HashMap<String, String>,
    /// Ids that were given away and not used yet, and until when they may be.
    named: HashMap<String, Instant>,
    /// End of the wait for members, or of the wait for their sync requests.
    deadline: Option<Instant>,
    pub offsets: Offsets,
}

/// How a request to join goes on.
enum Joined {
    Waits(String),
    At(JoinGroupResponse),
}

impl Group {
    /// Joins; the answer comes when the generation is complete. `needs_name`: the client can be told to come again with
    /// the id that it is given.
    pub(super) fn join(
        &mut self,
        ask: &JoinGroupRequest,
        client: &str,
        needs_name: bool,
        now: Instant,
    ) -> oneshot::Receiver<JoinGroupResponse> {
        let (answer, receiver) = oneshot::channel();
        match self.admit(ask, client, needs_name, now) {
            Ok(Joined::Waits(id)) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.join = Some(answer);
                }
                self.progress(now);
            }
            Ok(Joined::At(response)) => drop(answer.send(response)),
            Err((error, id)) => drop(answer.send(refused_join(error, &id))),
        }
        receiver
    }

    fn admit(
        &mut self,
        ask: &JoinGroupRequest,
        client: &str,
        needs_name: bool,
        now: Instant,
    ) -> Result<Joined, (ResponseError, String)> {
        let id = ask.member_id.to_string();
        if !self.fits(ask) {
            return Err((ResponseError::InconsistentGroupProtocol, id));
        }
        let instance = ask.group_instance_id.as_deref();
        if !id.is_empty() {
            if instance.is_none() && self.named.remove(&id).is_some() {
                return Ok(self.enter(id, ask, client, now));
            }
            self.validate(&id, instance).map_err(|error| (error, id.clone()))?;
            return self.rejoin(&id, ask, now).map_err(|error| (error, id));
        }
        let new = format!("{}-{}", instance.unwrap_or(client), uuid::Uuid::new_v4());
        match instance.and_then(|instance| self.statics.get(instance)) {
            Some(old) => Ok(self.replace(&old.clone(), new, ask, now)),
            None if instance.is_none() && needs_name => {
                self.named.insert(new.clone(), now + millis(ask.session_timeout_ms));
                Err((ResponseError::MemberIdRequired, new))
            }
            None => Ok(self.enter(new, ask, client, now)),
        }
    }

    /// Whether the group can go on with such a member.
    fn fits(&self, ask: &JoinGroupRequest) -> bool {
        if ask.protocol_type.is_empty() || ask.protocols.is_empty() {
            return false;
        }
        let known = |name: &str| {
            self.members.values().all(|member| member.protocols.iter().any(|(other, _)| other == name))
        };
        self.members.is_empty()
            || (ask.protocol_type == *self.protocol_type && ask.protocols.iter().any(|one| known(&one.name)))
    }

    fn enter(&mut self, id: String, ask: &JoinGroupRequest, client: &str, now: Instant) -> Joined {
        let mut member = Member {
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
        if let Some(instance) = &member.instance {
            self.statics.insert(instance.clone(), id.clone());
        }
        if self.members.is_empty() {
            self.protocol_type = ask.protocol_type.to_string();
        }
        self.members.insert(id.clone(), member);
        self.prepare(now);
        Joined::Waits(id)
    }

    fn rejoin(&mut self, id: &str, ask: &JoinGroupRequest, now: Instant) -> Result<Joined, ResponseError> {
        let leads = self.leader.as_deref() == Some(id);
        let member = self.members.get_mut(id).ok_or(ResponseError::UnknownMemberId)?;
        let unchanged = member.protocols == protocols(ask);
        member.update(ask, now);
        match self.phase {
            Phase::Empty => return Err(ResponseError::UnknownMemberId),
            // It did not get the answer, or asks again.
            Phase::Completing if unchanged => return Ok(Joined::At(self.generation_for(id))),
            Phase::Stable if unchanged && !leads => return Ok(Joined::At(self.generation_for(id))),
            Phase::Preparing | Phase::Completing | Phase::Stable => self.prepare(now),
        }
        Ok(Joined::Waits(id.to_owned()))
    }

    /// A static member comes back under a new id; whoever still uses the old one is fenced.
    fn replace(&mut self, old: &str, new: String, ask: &JoinGroupRequest, now: Instant) -> Joined {
        let leader_before = self.leader.clone();
        if let Some(mut member) = self.members.remove(old) {
            member.answer_join(refused_join(ResponseError::FencedInstanceId, old));
            member.answer_sync(refused_sync(ResponseError::FencedInstanceId));
            member.update(ask, now);
            if let Some(instance) = &member.instance {
                self.statics.insert(instance.clone(), new.clone());
            }
            self.members.insert(new.clone(), member);
        }
        if self.leader.as_deref() == Some(old) {
            self.leader = Some(new.clone());
        }
        if self.phase == Phase::Stable && self.select() == self.protocol {
            // Its assignment is kept for it. Under the old leader's id even a leader takes it for one.
            let mut response = self.generation_for(&new);
            response.members.clear();
            response.leader = text(leader_before.unwrap_or_default());
            return Joined::At(response);
        }
        self.prepare(now);
        Joined::Waits(new)
    }

    /// Begins a rebalance, if none is under way.
    fn prepare(&mut self, now: Instant) {
        if self.phase == Phase::Preparing {
            return;
        }
        for member in self.members.values_mut() {
            if self.phase == Phase::Completing {
                member.assignment = Bytes::new();
            }
            member.answer_sync(refused_sync(ResponseError::RebalanceInProgress));
        }
        // An empty group does not wait for more members (`group.initial.rebalance.delay.ms` 0).
        let wait = if self.phase == Phase::Empty { Duration::ZERO } else { self.longest_rebalance() };
        self.deadline = Some(now + wait);
        self.phase = Phase::Preparing;
    }

    fn longest_rebalance(&self) -> Duration {
        self.members.values().map(|member| member.rebalance).max().unwrap_or_default()
    }

    /// Completes the generation when all have joined, or the time is up.
    fn progress(&mut self, now: Instant) {
        if self.phase != Phase::Preparing {
            return;
        }
        let all = self.named.is_empty() && self.members.values().all(|member| member.join.is_some());
        if all || self.deadline.is_some_and(|deadline| deadline <= now) {
            self.complete(now);
        }
    }

    fn complete(&mut self, now: Instant) {
        let absent = |member: &Member| member.join.is_none() && member.instance.is_none();
        self.members.retain(|_, member| !absent(member));
        let joined = |member: &&Member| member.join.is_some();
        if !self.members.is_empty() && !self.members.values().any(|member| joined(&member)) {
            // Static members keep their places until their sessions end.
            self.deadline = Some(now + self.longest_rebalance());
            return;
        }
        let present = |id: &String| self.members.get(id).is_some_and(|member| member.join.is_some());
        if !self.leader.as_ref().is_some_and(present) {
            let first = self.members.iter().find(|(_, member)| joined(member));
            self.leader = first.map(|(id, _)| id.clone());
        }
        self.generation += 1;
        self.protocol = self.select();
        if self.members.is_empty() {
            (self.phase, self.deadline) = (Phase::Empty, None);
            return;
        }
        self.phase = Phase::Completing;
        self.deadline = Some(now + self.longest_rebalance());
        let answers: Vec<_> = self.members.keys().map(|id| (id.clone(), self.generation_for(id))).collect();
        for (id, response) in answers {
            if let Some(member) = self.members.get_mut(&id) {
                member.synced = false;
                member.deadline = now + member.session;
                member.answer_join(response);
            }
        }
    }

    /// The protocol that most members prefer among those that all know.
    fn select(&self) -> Option<String> {
        let known = |name: &str| {
            self.members.values().all(|member| member.protocols.iter().any(|(other, _)| other == name))
        };
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| known(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }

    fn generation_for(&self, id: &str) -> JoinGroupResponse {
        let protocol = self.protocol.clone().unwrap_or_default();
        let leads = self.leader.as_deref() == Some(id);
        let metadata = |member: &Member| {
            let own = member.protocols.iter().find(|(name, _)| *name == protocol);
            own.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
        };
        let entry = |(id, member): (&String, &Member)| {
            JoinGroupResponseMember::default()
                .with_member_id(text(id.clone()))
                .with_group_instance_id(member.instance.clone().map(text))
                .with_metadata(metadata(member))
        };
        JoinGroupResponse::default()
            .with_generation_id(self.generation)
            .with_leader(text(self.leader.clone().unwrap_or_default()))
            .with_member_id(text(id.to_owned()))
            .with_members(if leads { self.members.iter().map(entry).collect() } else { Vec::new() })
            .with_protocol_name(Some(text(protocol)))
    }

    /// Asks for the member's assignment; the leader brings all of them.
    pub(super) fn sync(
        &mut self,
        ask: &SyncGroupRequest,
        now: Instant,
    ) -> oneshot::Receiver<SyncGroupResponse> {
        let (answer, receiver) = oneshot::channel();
        match self.try_sync(ask, now) {
            Ok(()) => {
                if let Some(member) = self.members.get_mut(&*ask.member_id) {
                    member.sync = Some(answer);
                }
                if self.phase == Phase::Stable {
                    self.hand_out();
                }
            }
            Err(error) => drop(answer.send(refused_sync(error))),
        }
        receiver
    }

    fn try_sync(&mut self, ask: &SyncGroupRequest, now: Instant) -> Result<(), ResponseError> {
        self.validate(&ask.member_id, ask.group_instance_id.as_deref())?;
        self.check_generation(ask.generation_id)?;
        let other = |given: &Option<_>, own: Option<&str>| {
            given.as_deref().is_some_and(|given: &str| Some(given) != own)
        };
        let (kind, name) = (ask.protocol_type.clone(), ask.protocol_name.clone());
        if other(&kind.map(|kind| kind.to_string()), Some(&self.protocol_type))
            || other(&name.map(|name| name.to_string()), self.protocol.as_deref())
        {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        match self.phase {
            Phase::Empty => return Err(ResponseError::UnknownMemberId),
            Phase::Preparing => return Err(ResponseError::RebalanceInProgress),
            Phase::Completing | Phase::Stable => {}
        }
        if let Some(member) = self.members.get_mut(&*ask.member_id) {
            member.synced = true;
            member.deadline = now + member.session;
        }
        if self.phase == Phase::Completing && self.leader.as_deref() == Some(&*ask.member_id) {
            for member in self.members.values_mut() {
                member.assignment = Bytes::new();
            }
            for assignment in &ask.assignments {
                if let Some(member) = self.members.get_mut(&*assignment.member_id) {
                    member.assignment = Bytes::copy_from_slice(&assignment.assignment);
                }
            }
            self.phase = Phase::Stable;
        }
        Ok(())
    }

    fn hand_out(&mut self) {
        let (kind, name) = (text(self.protocol_type.clone()), self.protocol.clone().map(text));
        for member in self.members.values_mut() {
            let assignment = member.assignment.clone();
            let response = SyncGroupResponse::default().with_assignment(assignment);
            let response = response.with_protocol_type(Some(kind.clone())).with_protocol_name(name.clone());
            member.answer_sync(response);
        }
    }

    /// A sign of life.
    pub(super) fn heartbeat(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now: Instant,
    ) -> Result<(), ResponseError> {
        self.validate(id, instance)?;
        self.check_generation(generation)?;
        self.touch(id, now);
        match self.phase {
            Phase::Empty => Err(ResponseError::UnknownMemberId),
            Phase::Preparing => Err(ResponseError::RebalanceInProgress),
            Phase::Completing | Phase::Stable => Ok(()),
        }
    }

    fn touch(&mut self, id: &str, now: Instant) {
        if let Some(member) = self.members.get_mut(id) {
            member.deadline = now + member.session;
        }
    }

    /// Removes a member, named by its id, by its instance, or by both.
    pub(super) fn leave(
        &mut self,
        id: &str,
        instance: Option<&str>,
        now: Instant,
    ) -> Result<(), ResponseError> {
        if self.named.remove(id).is_none() {
            let found = instance.and_then(|instance| self.statics.get(instance));
            let id = match (id, found) {
                ("", Some(found)) => found.clone(),
                _ => id.to_owned(),
            };
            self.validate(&id, instance)?;
            self.remove(&id);
            self.prepare(now);
        }
        self.progress(now);
        Ok(())
    }

    fn remove(&mut self, id: &str) {
        if let Some(mut member) = self.members.remove(id) {
            member.answer_join(refused_join(ResponseError::UnknownMemberId, id));
            member.answer_sync(refused_sync(ResponseError::UnknownMemberId));
            if let Some(instance) = member.instance {
                self.statics.remove(&instance);
            }
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = None;
        }
    }

    fn validate(&self, id: &str, instance: Option<&str>) -> Result<(), ResponseError> {
        if let Some(instance) = instance {
            let current = self.statics.get(instance).ok_or(ResponseError::UnknownMemberId)?;
            if current != id {
                return Err(ResponseError::FencedInstanceId);
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(ResponseError::UnknownMemberId) }
    }

    fn check_generation(&self, generation: i32) -> Result<(), ResponseError> {
        if generation == self.generation { Ok(()) } else { Err(ResponseError::IllegalGeneration) }
    }

    /// Whether offsets may be committed by whom the request names.
    pub(super) fn may_commit(
        &mut self,
        (id, instance, generation): (&str, Option<&str>, i32),
        transactional: bool,
        now: Instant,
    ) -> Result<(), ResponseError> {
        if generation < 0 && self.phase == Phase::Empty {
            return Ok(());
        }
        if generation >= 0 || !id.is_empty() || instance.is_some() {
            if self.phase == Phase::Empty && self.generation == 0 && self.members.is_empty() {
                return Err(ResponseError::IllegalGeneration);
            }
            self.validate(id, instance)?;
            self.check_generation(generation)?;
            self.touch(id, now);
        } else if !transactional {
            return Err(ResponseError::UnknownMemberId);
        }
        if !transactional && self.phase == Phase::Completing {
            return Err(ResponseError::RebalanceInProgress);
        }
        Ok(())
    }

    /// Removes members whose sessions ended, and ends waits that lasted too long.
    pub(super) fn tick(&mut self, now: Instant) {
        self.named.retain(|_, until| *until > now);
        let late_sync =
            self.phase == Phase::Completing && self.deadline.is_some_and(|deadline| deadline <= now);
        let gone = |member: &Member| {
            let waits = member.join.is_some() || member.sync.is_some();
            (member.deadline <= now && !waits) || (late_sync && !member.synced)
        };
        let gone: Vec<String> =
            self.members.iter().filter(|(_, member)| gone(member)).map(|(id, _)| id.clone()).collect();
        for id in &gone {
            self.remove(id);
        }
        if !gone.is_empty() {
            self.prepare(now);
        }
        self.progress(now);
    }
}
