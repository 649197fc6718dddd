//! A consumer group as the coordinator of the classic protocol keeps it.
//!
//! The rules are those of Kafka's `ClassicGroup` and `GroupMetadataManager`. Time is an argument; a member that waits
//! for the others is answered through its channel.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::server::Call;
use super::wire::*;

/// Named as Kafka does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    #[default]
    Empty,
    /// Waits for members to join.
    PreparingRebalance,
    /// Waits for the leader's assignment.
    CompletingRebalance,
    Stable,
}

/// Topic and partition.
pub type Place = (String, i32);

/// Offsets with their leader epochs and the client's own words about them.
pub type Commits = BTreeMap<Place, (i64, i32, String)>;

#[derive(Default)]
pub struct Offsets {
    pub committed: Commits,
    /// By producer: what its open transaction will commit.
    pub pending: HashMap<i64, Commits>,
}

#[derive(Default)]
pub struct Group {
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

/// An answer that comes when the group has decided.
pub type Later<T> = Answer<oneshot::Receiver<Answer<T>>>;

/// The id of the member that waits for the others, or what is answered at once.
type Admission = Answer<Result<String, Box<JoinGroupResponse>>>;

/// Who somebody says to be: member id, instance id, generation.
pub type Claim<'a> = (&'a str, Option<&'a str>, i32);

impl Group {
    /// Joins; the answer comes when the generation is complete.
    pub fn join(&mut self, call: &Call, ask: &JoinGroupRequest, now: Instant) -> Later<JoinGroupResponse> {
        let (answer, later) = oneshot::channel();
        match self.admit(call, ask, now)? {
            Ok(id) => {
                self.members.entry(id).and_modify(|member| member.join = Some(answer));
                self.progress(now);
            }
            Err(response) => drop(answer.send(Ok(*response))),
        }
        Ok(later)
    }

    fn admit(&mut self, call: &Call, ask: &JoinGroupRequest, now: Instant) -> Admission {
        ensure(self.fits(ask), InconsistentGroupProtocol)?;
        let (id, instance) = (ask.member_id.to_string(), ask.group_instance_id.as_deref());
        if instance.is_none() && self.named.remove(&id).is_some() {
            return self.enter(id, call, ask, now);
        }
        if !id.is_empty() {
            self.validate(&id, instance)?;
            return self.rejoin(id, ask, now);
        }
        let new = format!("{}-{}", instance.unwrap_or(&call.client), uuid::Uuid::new_v4());
        match instance.and_then(|instance| self.id_of(instance)).map(str::to_owned) {
            Some(old) => self.replace(&old, new, ask, now),
            // Since version 4 clients come again with the id that they are given.
            None if instance.is_none() && call.version >= 4 => {
                self.named.insert(new.clone(), now + millis(ask.session_timeout_ms));
                let (error_code, member_id) = (MemberIdRequired.code(), new.into());
                Ok(Err(made!(JoinGroupResponse { error_code, member_id }).into()))
            }
            None => self.enter(new, call, ask, now),
        }
    }

    /// Member of a `group.instance.id`.
    fn id_of(&self, instance: &str) -> Option<&str> {
        let found = self.members.iter().find(|(_, member)| member.instance.as_deref() == Some(instance));
        found.map(|(id, _)| id.as_str())
    }

    /// Whether the group can go on with such a member.
    fn fits(&self, ask: &JoinGroupRequest) -> bool {
        let is_known = ask.protocol_type == *self.protocol_type || self.members.is_empty();
        let is_common = ask.protocols.iter().any(|one| self.all_know(&one.name));
        is_known && is_common && !ask.protocol_type.is_empty()
    }

    fn all_know(&self, protocol: &str) -> bool {
        self.members.values().all(|member| member.protocols.iter().any(|(name, _)| name == protocol))
    }

    fn enter(&mut self, id: String, call: &Call, ask: &JoinGroupRequest, now: Instant) -> Admission {
        if self.members.is_empty() {
            self.protocol_type = ask.protocol_type.to_string();
        }
        let instance = ask.group_instance_id.as_ref().map(ToString::to_string);
        let mut member = Member { instance, client: call.client.clone(), ..Member::default() };
        member.update(ask, now);
        self.members.insert(id.clone(), member);
        self.prepare(now);
        Ok(Ok(id))
    }

    fn rejoin(&mut self, id: String, ask: &JoinGroupRequest, now: Instant) -> Admission {
        let leads = self.leads(&id);
        let member = self.members.get_mut(&id).ok_or(UnknownMemberId)?;
        let unchanged = member.protocols == protocols(ask);
        member.update(ask, now);
        match self.phase {
            Phase::Empty => return Err(UnknownMemberId),
            // It did not get the answer, or asks again.
            Phase::CompletingRebalance if unchanged => return Ok(Err(self.generation_for(&id).into())),
            Phase::Stable if unchanged && !leads => return Ok(Err(self.generation_for(&id).into())),
            _ => self.prepare(now),
        }
        Ok(Ok(id))
    }

    /// A static member comes back under a new id; whoever still uses the old one is fenced.
    fn replace(&mut self, old: &str, new: String, ask: &JoinGroupRequest, now: Instant) -> Admission {
        let leader_before = self.leader.clone();
        if let Some(mut member) = self.members.remove(old) {
            member.refuse(FencedInstanceId);
            member.update(ask, now);
            self.members.insert(new.clone(), member);
        }
        if self.leads(old) {
            self.leader = Some(new.clone());
        }
        if self.phase == Phase::Stable && self.select() == self.protocol {
            // Its assignment is kept for it. Under the old leader's id even a leader takes it for one.
            let mut response = self.generation_for(&new);
            response.members.clear();
            response.leader = leader_before.unwrap_or_default().into();
            return Ok(Err(response.into()));
        }
        self.prepare(now);
        Ok(Ok(new))
    }

    fn leads(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    /// Begins a rebalance, if none is under way.
    fn prepare(&mut self, now: Instant) {
        if self.phase == Phase::PreparingRebalance {
            return;
        }
        for member in self.members.values_mut() {
            if self.phase == Phase::CompletingRebalance {
                member.assignment = Bytes::new();
            }
            answer(&mut member.sync, Err(RebalanceInProgress));
        }
        // An empty group does not wait for more members (`group.initial.rebalance.delay.ms` 0).
        let wait = if self.phase == Phase::Empty { Duration::ZERO } else { self.longest_rebalance() };
        self.deadline = Some(now + wait);
        self.phase = Phase::PreparingRebalance;
    }

    fn longest_rebalance(&self) -> Duration {
        self.members.values().map(|member| member.rebalance).max().unwrap_or_default()
    }

    /// Completes the generation when all have joined, or the time is up.
    fn progress(&mut self, now: Instant) {
        let all = self.named.is_empty() && self.members.values().all(|member| member.join.is_some());
        if self.phase != Phase::PreparingRebalance || !(all || is_over(self.deadline, now)) {
            return;
        }
        self.members.retain(|_, member| member.join.is_some() || member.instance.is_some());
        let first = self.members.iter().find(|(_, member)| member.join.is_some()).map(|(id, _)| id.clone());
        self.deadline = Some(now + self.longest_rebalance());
        if !self.members.is_empty() && first.is_none() {
            // Static members keep their places until their sessions end.
            return;
        }
        if !self.members.iter().any(|(id, member)| member.join.is_some() && self.leads(id)) {
            self.leader = first;
        }
        self.generation += 1;
        self.protocol = self.select();
        if self.members.is_empty() {
            (self.phase, self.deadline) = (Phase::Empty, None);
            return;
        }
        self.phase = Phase::CompletingRebalance;
        let answers: Vec<_> = self.members.keys().map(|id| self.generation_for(id)).collect();
        for (member, generation) in self.members.values_mut().zip(answers) {
            member.synced = false;
            member.touch(now);
            answer(&mut member.join, Ok(generation));
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
        let entry = |(id, member): (&String, &Member)| {
            let group_instance_id = member.instance.clone().map(Into::into);
            let metadata = member.metadata(&protocol);
            made!(JoinGroupResponseMember { member_id: id.clone().into(), group_instance_id, metadata })
        };
        made!(JoinGroupResponse {
            generation_id: self.generation,
            leader: self.leader.clone().unwrap_or_default().into(),
            member_id: id.to_owned().into(),
            members: self.members.iter().filter(|_| self.leads(id)).map(entry).collect(),
            protocol_name: self.protocol.clone().map(Into::into),
        })
    }

    /// Asks for the member's assignment; the leader brings all of them.
    pub fn sync(&mut self, ask: &SyncGroupRequest, now: Instant) -> Later<SyncGroupResponse> {
        self.heartbeat((&ask.member_id, ask.group_instance_id.as_deref(), ask.generation_id), now)?;
        let (waiting, later) = oneshot::channel();
        let member = self.members.get_mut(&*ask.member_id).ok_or(UnknownMemberId)?;
        (member.synced, member.sync) = (true, Some(waiting));
        if self.phase == Phase::CompletingRebalance && self.leads(&ask.member_id) {
            for (id, member) in &mut self.members {
                let own = ask.assignments.iter().find(|one| *one.member_id == **id);
                member.assignment =
                    own.map(|own| Bytes::copy_from_slice(&own.assignment)).unwrap_or_default();
            }
            self.phase = Phase::Stable;
        }
        for member in self.members.values_mut().filter(|_| self.phase == Phase::Stable) {
            let assignment = member.assignment.clone();
            answer(&mut member.sync, Ok(made!(SyncGroupResponse { assignment })));
        }
        Ok(later)
    }

    /// Refuses while there is no generation to work in.
    fn goes_on(&self) -> Answer<()> {
        match self.phase {
            Phase::Empty => Err(UnknownMemberId),
            Phase::PreparingRebalance => Err(RebalanceInProgress),
            Phase::CompletingRebalance | Phase::Stable => Ok(()),
        }
    }

    /// A sign of life.
    pub fn heartbeat(&mut self, who: Claim<'_>, now: Instant) -> Answer<()> {
        self.check(who, now)?;
        self.goes_on()
    }

    /// A member says goodbye.
    pub fn leave(&mut self, id: &str, now: Instant) -> Answer<()> {
        if self.named.remove(id).is_none() {
            self.validate(id, None)?;
            self.remove(id);
            self.prepare(now);
        }
        self.progress(now);
        Ok(())
    }

    fn remove(&mut self, id: &str) {
        if let Some(mut member) = self.members.remove(id) {
            member.refuse(UnknownMemberId);
        }
        self.leader.take_if(|leader| leader == id);
    }

    fn validate(&self, id: &str, instance: Option<&str>) -> Answer<()> {
        if let Some(instance) = instance {
            let current = self.id_of(instance).ok_or(UnknownMemberId)?;
            ensure(current == id, FencedInstanceId)?;
        }
        ensure(self.members.contains_key(id), UnknownMemberId)
    }

    /// A member of this generation is alive.
    fn check(&mut self, (id, instance, generation): Claim<'_>, now: Instant) -> Answer<()> {
        self.validate(id, instance)?;
        ensure(generation == self.generation, IllegalGeneration)?;
        self.members.entry(id.to_owned()).and_modify(|member| member.touch(now));
        Ok(())
    }

    /// Whether offsets may be committed by whom the request names.
    pub fn may_commit(&mut self, who: Claim<'_>, transactional: bool, now: Instant) -> Answer<()> {
        let (id, instance, generation) = who;
        if generation < 0 && self.phase == Phase::Empty {
            return Ok(());
        }
        if generation >= 0 || !id.is_empty() || instance.is_some() {
            ensure(self.generation > 0 || !self.members.is_empty(), IllegalGeneration)?;
            self.check(who, now)?;
        } else {
            ensure(transactional, UnknownMemberId)?;
        }
        ensure(transactional || self.phase != Phase::CompletingRebalance, RebalanceInProgress)
    }

    /// Whether there is anything to keep: a group that was only asked about is forgotten.
    pub fn was_used(&self) -> bool {
        self.generation > 0 || !self.members.is_empty() || !self.named.is_empty() || !self.offsets.is_empty()
    }

    /// Removes members whose sessions ended, and ends waits that lasted too long.
    pub fn tick(&mut self, now: Instant) {
        self.named.retain(|_, until| *until > now);
        let late_sync = self.phase == Phase::CompletingRebalance && is_over(self.deadline, now);
        let is_gone = |(_, member): &(&String, &Member)| {
            let waits = member.join.is_some() || member.sync.is_some();
            (is_over(member.deadline, now) && !waits) || (late_sync && !member.synced)
        };
        let gone: Vec<String> = self.members.iter().filter(is_gone).map(|(id, _)| id.clone()).collect();
        gone.iter().for_each(|id| self.remove(id));
        if !gone.is_empty() {
            self.prepare(now);
        }
        self.progress(now);
    }
}

fn is_over(deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_some_and(|deadline| deadline <= now)
}

/// Who waits for an answer, if somebody does.
type Waiting<T> = Option<oneshot::Sender<Answer<T>>>;

#[derive(Default)]
pub struct Member {
    pub instance: Option<String>,
    pub client: String,
    pub session: Duration,
    pub rebalance: Duration,
    /// Names and metadata of what it can do, the preferred first.
    pub protocols: Vec<(String, Bytes)>,
    pub assignment: Bytes,
    /// Without a sign of life until then it is removed.
    pub deadline: Option<Instant>,
    /// It has asked for its assignment in this generation.
    pub synced: bool,
    pub join: Waiting<JoinGroupResponse>,
    pub sync: Waiting<SyncGroupResponse>,
}

impl Member {
    pub fn update(&mut self, ask: &JoinGroupRequest, now: Instant) {
        self.session = millis(ask.session_timeout_ms);
        self.rebalance = millis(ask.rebalance_timeout_ms);
        self.protocols = protocols(ask);
        self.touch(now);
    }

    /// It is alive.
    pub fn touch(&mut self, now: Instant) {
        self.deadline = Some(now + self.session);
    }

    /// Ends whatever it waits for.
    pub fn refuse(&mut self, error: ResponseError) {
        answer(&mut self.join, Err(error));
        answer(&mut self.sync, Err(error));
    }

    /// What it told of itself for `protocol`.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        let own = self.protocols.iter().find(|(name, _)| name == protocol);
        own.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }
}

/// Answers who waits, if somebody does.
pub fn answer<T>(waiting: &mut Waiting<T>, answer: Answer<T>) {
    if let Some(waiting) = waiting.take() {
        let _ = waiting.send(answer);
    }
}

/// Copies: what a request holds would keep all of its bytes in memory.
pub fn protocols(ask: &JoinGroupRequest) -> Vec<(String, Bytes)> {
    ask.protocols.iter().map(|one| (one.name.to_string(), Bytes::copy_from_slice(&one.metadata))).collect()
}

impl Offsets {
    /// The producer's transaction has ended.
    pub fn end(&mut self, producer: i64, commit: bool) {
        let held = self.pending.remove(&producer).unwrap_or_default();
        self.committed.extend(held.into_iter().filter(|_| commit));
    }

    pub fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.pending.is_empty()
    }

    /// Whether an open transaction may still change this one.
    pub fn is_unstable(&self, place: &Place) -> bool {
        self.pending.values().any(|held| held.contains_key(place))
    }

    /// The topic is gone.
    pub fn forget(&mut self, topic: &str) {
        self.committed.retain(|(name, _), _| name != topic);
        self.pending.values_mut().for_each(|held| held.retain(|(name, _), _| name != topic));
    }
}
