//! A consumer group as the coordinator of the classic protocol keeps it.
//!
//! The rules are those of Kafka's `ClassicGroup` and `GroupMetadataManager`. Time is an argument; a member that waits
//! for the others is answered through its channel.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::group_offsets::Offsets;
use super::member::{Member, millis, protocols, refused_join, refused_sync};
use super::wire::ResponseError::{
    FencedInstanceId, IllegalGeneration, InconsistentGroupProtocol, MemberIdRequired, RebalanceInProgress,
    UnknownMemberId,
};
use super::wire::*;

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

impl Phase {
    /// As Kafka calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Preparing => "PreparingRebalance",
            Self::Completing => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

#[derive(Default)]
pub(super) struct Group {
    pub phase: Phase,
    pub generation: i32,
    pub protocol_type: String,
    pub protocol: Option<String>,
    leader: Option<String>,
    pub members: BTreeMap<String, Member>,
    /// Ids that were given away and not used yet, and until when they may be.
    named: HashMap<String, Instant>,
    /// End of the wait for members, or of the wait for their sync requests.
    deadline: Option<Instant>,
    pub offsets: Offsets,
}

/// The id of the member that waits for the others, or what is answered at once.
type Admission = Result<String, Box<JoinGroupResponse>>;

/// Who somebody says to be: member id, instance id, generation.
pub(super) type Claim<'a> = (&'a str, Option<&'a str>, i32);

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
            Ok(id) => {
                self.members.entry(id).and_modify(|member| member.join = Some(answer));
                self.progress(now);
            }
            Err(response) => drop(answer.send(*response)),
        }
        receiver
    }

    fn admit(&mut self, ask: &JoinGroupRequest, client: &str, needs_name: bool, now: Instant) -> Admission {
        let id = ask.member_id.to_string();
        if !self.fits(ask) {
            return Err(refused_join(InconsistentGroupProtocol, &id).into());
        }
        let instance = ask.group_instance_id.as_deref();
        if !id.is_empty() {
            if instance.is_none() && self.named.remove(&id).is_some() {
                return Ok(self.enter(id, ask, client, now));
            }
            self.validate(&id, instance).map_err(|error| refused_join(error, &id))?;
            return self.rejoin(id, ask, now);
        }
        let new = format!("{}-{}", instance.unwrap_or(client), uuid::Uuid::new_v4());
        match instance.and_then(|instance| self.id_of(instance)).map(str::to_owned) {
            Some(old) => self.replace(&old, new, ask, now),
            None if instance.is_none() && needs_name => {
                self.named.insert(new.clone(), now + millis(ask.session_timeout_ms));
                Err(refused_join(MemberIdRequired, &new).into())
            }
            None => Ok(self.enter(new, ask, client, now)),
        }
    }

    /// Member of a `group.instance.id`.
    fn id_of(&self, instance: &str) -> Option<&str> {
        let found = self.members.iter().find(|(_, member)| member.instance.as_deref() == Some(instance));
        found.map(|(id, _)| id.as_str())
    }

    /// Whether the group can go on with such a member.
    fn fits(&self, ask: &JoinGroupRequest) -> bool {
        if ask.protocol_type.is_empty() || ask.protocols.is_empty() {
            return false;
        }
        self.members.is_empty()
            || (ask.protocol_type == *self.protocol_type
                && ask.protocols.iter().any(|one| self.all_know(&one.name)))
    }

    fn all_know(&self, protocol: &str) -> bool {
        self.members.values().all(|member| member.protocols.iter().any(|(name, _)| name == protocol))
    }

    fn enter(&mut self, id: String, ask: &JoinGroupRequest, client: &str, now: Instant) -> String {
        if self.members.is_empty() {
            self.protocol_type = ask.protocol_type.to_string();
        }
        self.members.insert(id.clone(), Member::new(ask, client, now));
        self.prepare(now);
        id
    }

    fn rejoin(&mut self, id: String, ask: &JoinGroupRequest, now: Instant) -> Admission {
        let leads = self.leader.as_ref() == Some(&id);
        let unknown = || refused_join(UnknownMemberId, &id);
        let member = self.members.get_mut(&id).ok_or_else(unknown)?;
        let unchanged = member.protocols == protocols(ask);
        member.update(ask, now);
        match self.phase {
            Phase::Empty => return Err(unknown().into()),
            // It did not get the answer, or asks again.
            Phase::Completing if unchanged => return Err(self.generation_for(&id).into()),
            Phase::Stable if unchanged && !leads => return Err(self.generation_for(&id).into()),
            Phase::Preparing | Phase::Completing | Phase::Stable => self.prepare(now),
        }
        Ok(id)
    }

    /// A static member comes back under a new id; whoever still uses the old one is fenced.
    fn replace(&mut self, old: &str, new: String, ask: &JoinGroupRequest, now: Instant) -> Admission {
        let leader_before = self.leader.clone();
        if let Some(mut member) = self.members.remove(old) {
            member.refuse(FencedInstanceId, old);
            member.update(ask, now);
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
            return Err(response.into());
        }
        self.prepare(now);
        Ok(new)
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
            member.answer_sync(refused_sync(RebalanceInProgress));
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
        let mut answers: Vec<_> = self.members.keys().map(|id| self.generation_for(id)).collect();
        for (member, answer) in self.members.values_mut().zip(answers.drain(..)) {
            (member.synced, member.deadline) = (false, now + member.session);
            member.answer_join(answer);
        }
    }

    /// The protocol that most members prefer among those that all know.
    fn select(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| self.all_know(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }

    fn generation_for(&self, id: &str) -> JoinGroupResponse {
        let protocol = self.protocol.clone().unwrap_or_default();
        let leads = self.leader.as_deref() == Some(id);
        let entry = |(id, member): (&String, &Member)| {
            made!(JoinGroupResponseMember {
                member_id: text(id.clone()),
                group_instance_id: member.instance.clone().map(text),
                metadata: member.metadata(&protocol),
            })
        };
        made!(JoinGroupResponse {
            generation_id: self.generation,
            leader: text(self.leader.clone().unwrap_or_default()),
            member_id: text(id.to_owned()),
            members: if leads { self.members.iter().map(entry).collect() } else { Vec::new() },
            protocol_name: Some(text(protocol)),
        })
    }

    /// Asks for the member's assignment; the leader brings all of them.
    pub(super) fn sync(
        &mut self,
        ask: &SyncGroupRequest,
        now: Instant,
    ) -> oneshot::Receiver<SyncGroupResponse> {
        let (answer, receiver) = oneshot::channel();
        match (self.try_sync(ask, now), self.members.get_mut(&*ask.member_id)) {
            (Ok(()), Some(member)) => member.sync = Some(answer),
            (Ok(()), None) => {}
            (Err(error), _) => drop(answer.send(refused_sync(error))),
        }
        if self.phase == Phase::Stable {
            self.hand_out();
        }
        receiver
    }

    fn try_sync(&mut self, ask: &SyncGroupRequest, now: Instant) -> Result<(), ResponseError> {
        self.validate(&ask.member_id, ask.group_instance_id.as_deref())?;
        self.check_generation(ask.generation_id)?;
        let other = |given: &Option<StrBytes>, own: Option<&str>| given.is_some() && given.as_deref() != own;
        if other(&ask.protocol_type, Some(&self.protocol_type))
            || other(&ask.protocol_name, self.protocol.as_deref())
        {
            return Err(InconsistentGroupProtocol);
        }
        match self.phase {
            Phase::Empty => return Err(UnknownMemberId),
            Phase::Preparing => return Err(RebalanceInProgress),
            Phase::Completing | Phase::Stable => {}
        }
        if let Some(member) = self.members.get_mut(&*ask.member_id) {
            member.synced = true;
            member.deadline = now + member.session;
        }
        if self.phase == Phase::Completing && self.leader.as_deref() == Some(&*ask.member_id) {
            for (id, member) in &mut self.members {
                let own = ask.assignments.iter().find(|one| *one.member_id == **id);
                member.assignment =
                    own.map(|own| Bytes::copy_from_slice(&own.assignment)).unwrap_or_default();
            }
            self.phase = Phase::Stable;
        }
        Ok(())
    }

    fn hand_out(&mut self) {
        for member in self.members.values_mut() {
            member.answer_sync(made!(SyncGroupResponse {
                assignment: member.assignment.clone(),
                protocol_type: Some(text(self.protocol_type.clone())),
                protocol_name: self.protocol.clone().map(text),
            }));
        }
    }

    /// A sign of life.
    pub(super) fn heartbeat(
        &mut self,
        (id, instance, generation): Claim<'_>,
        now: Instant,
    ) -> Result<(), ResponseError> {
        self.validate(id, instance)?;
        self.check_generation(generation)?;
        self.touch(id, now);
        match self.phase {
            Phase::Empty => Err(UnknownMemberId),
            Phase::Preparing => Err(RebalanceInProgress),
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
            let found = instance.filter(|_| id.is_empty()).and_then(|instance| self.id_of(instance));
            let id = found.unwrap_or(id).to_owned();
            self.validate(&id, instance)?;
            self.remove(&id);
            self.prepare(now);
        }
        self.progress(now);
        Ok(())
    }

    fn remove(&mut self, id: &str) {
        if let Some(mut member) = self.members.remove(id) {
            member.refuse(UnknownMemberId, id);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = None;
        }
    }

    fn validate(&self, id: &str, instance: Option<&str>) -> Result<(), ResponseError> {
        if let Some(instance) = instance {
            let current = self.id_of(instance).ok_or(UnknownMemberId)?;
            if current != id {
                return Err(FencedInstanceId);
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(UnknownMemberId) }
    }

    fn check_generation(&self, generation: i32) -> Result<(), ResponseError> {
        if generation == self.generation { Ok(()) } else { Err(IllegalGeneration) }
    }

    /// Whether offsets may be committed by whom the request names.
    pub(super) fn may_commit(
        &mut self,
        (id, instance, generation): Claim<'_>,
        transactional: bool,
        now: Instant,
    ) -> Result<(), ResponseError> {
        if generation < 0 && self.phase == Phase::Empty {
            return Ok(());
        }
        if generation >= 0 || !id.is_empty() || instance.is_some() {
            if self.phase == Phase::Empty && self.generation == 0 && self.members.is_empty() {
                return Err(IllegalGeneration);
            }
            self.validate(id, instance)?;
            self.check_generation(generation)?;
            self.touch(id, now);
        } else if !transactional {
            return Err(UnknownMemberId);
        }
        if !transactional && self.phase == Phase::Completing {
            return Err(RebalanceInProgress);
        }
        Ok(())
    }

    /// Whether there is anything to keep: a group that was only asked about is forgotten.
    pub(super) fn was_used(&self) -> bool {
        self.generation > 0 || !self.members.is_empty() || !self.named.is_empty() || !self.offsets.is_empty()
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
