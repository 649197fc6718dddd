//! Requests about groups.

use std::time::Instant;

use super::group::{Group, Later, Offsets, Phase, Place};
use super::server::Call;
use super::state::State;
use super::wire::*;

/// Shortest and longest session of a group's member, in milliseconds.
const SESSION_MILLIS: std::ops::RangeInclusive<i32> = 1_000..=1_800_000;
/// `offset.metadata.max.bytes`.
const METADATA_BYTES_MAX: usize = 4096;
type Commit<'a> = (i64, i32, Option<&'a str>);

impl State {
    pub fn find_coordinator(&mut self, _: &FindCoordinatorRequest) -> FindCoordinatorResponse {
        let (error_code, port) = (code(&self.allow()), self.settings.port.into());
        made!(FindCoordinatorResponse { error_code, node_id: NODE, host: HOST, port })
    }

    /// The group, which is there from now on.
    fn group(&mut self, id: &str) -> Answer<&mut Group> {
        self.allow()?;
        Ok(self.groups.entry(id.to_owned()).or_default())
    }

    fn known_group(&mut self, id: &str) -> Answer<&mut Group> {
        self.allow()?;
        self.groups.get_mut(id).ok_or(UnknownMemberId)
    }

    pub fn join_group(&mut self, call: &Call, ask: &JoinGroupRequest) -> Later<JoinGroupResponse> {
        ensure(!ask.group_id.is_empty(), InvalidGroupId)?;
        ensure(SESSION_MILLIS.contains(&ask.session_timeout_ms), InvalidSessionTimeout)?;
        self.group(&ask.group_id)?.join(call, ask, Instant::now())
    }

    pub fn sync_group(&mut self, ask: &SyncGroupRequest) -> Later<SyncGroupResponse> {
        self.known_group(&ask.group_id)?.sync(ask, Instant::now())
    }

    pub fn heartbeat(&mut self, ask: &HeartbeatRequest) -> HeartbeatResponse {
        let who = (&*ask.member_id, ask.group_instance_id.as_deref(), ask.generation_id);
        let group = self.known_group(&ask.group_id);
        let result = group.and_then(|group| group.heartbeat(who, Instant::now()));
        made!(HeartbeatResponse { error_code: code(&result) })
    }

    pub fn leave_group(&mut self, ask: &LeaveGroupRequest) -> LeaveGroupResponse {
        let result = self.known_group(&ask.group_id).and_then(|it| it.leave(&ask.member_id, Instant::now()));
        made!(LeaveGroupResponse { error_code: code(&result) })
    }

    pub fn offset_commit(&mut self, ask: &OffsetCommitRequest) -> OffsetCommitResponse {
        let who = (&*ask.member_id, ask.group_instance_id.as_deref(), ask.generation_id_or_member_epoch);
        let group = self.group(&ask.group_id);
        let allowed = group.and_then(|group| group.may_commit(who, false, Instant::now()));
        let topics = each!(ask.topics, partitions => OffsetCommitResponseTopic.partitions, |name, one| {
            let what = (one.committed_offset, one.committed_leader_epoch, one.committed_metadata.as_deref());
            let place = (name.to_string(), one.partition_index);
            let error_code = code(&allowed.and_then(|()| self.keep(&ask.group_id, None, place, what)));
            made!(OffsetCommitResponsePartition { partition_index: one.partition_index, error_code })
        });
        made!(OffsetCommitResponse { topics })
    }

    pub fn txn_offset_commit(&mut self, ask: &TxnOffsetCommitRequest) -> TxnOffsetCommitResponse {
        let who = (&*ask.member_id, ask.group_instance_id.as_deref(), ask.generation_id);
        let group = self.may_commit_in_transaction(ask).and_then(|()| self.group(&ask.group_id));
        let allowed = group.and_then(|group| group.may_commit(who, true, Instant::now()));
        let topics = each!(ask.topics, partitions => TxnOffsetCommitResponseTopic.partitions, |name, one| {
            let what = (one.committed_offset, one.committed_leader_epoch, one.committed_metadata.as_deref());
            let (place, producer) = ((name.to_string(), one.partition_index), Some(ask.producer_id.0));
            let error_code = code(&allowed.and_then(|()| self.keep(&ask.group_id, producer, place, what)));
            made!(TxnOffsetCommitResponsePartition { partition_index: one.partition_index, error_code })
        });
        made!(TxnOffsetCommitResponse { topics })
    }

    /// Keeps an offset and the client's words for a group; in a producer's transaction, until it ends.
    fn keep(&mut self, group: &str, producer: Option<i64>, place: Place, what: Commit<'_>) -> Answer<()> {
        self.partition(&place.0, place.1)?;
        ensure(what.2.is_none_or(|words| words.len() <= METADATA_BYTES_MAX), OffsetMetadataTooLarge)?;
        let Offsets { committed, pending } = &mut self.group(group)?.offsets;
        let commits = producer.map_or(committed, |producer| pending.entry(producer).or_default());
        commits.insert(place, (what.0, what.1, what.2.unwrap_or_default().to_owned()));
        Ok(())
    }

    pub fn offset_fetch(&mut self, ask: &OffsetFetchRequest) -> OffsetFetchResponse {
        let none = Group::default();
        let offsets = &self.groups.get(&**ask.group_id).unwrap_or(&none).offsets;
        let topic = |(name, index): &Place| {
            let (name, partition_indexes) = (StrBytes::from(name.clone()).into(), vec![*index]);
            made!(OffsetFetchRequestTopic { name, partition_indexes })
        };
        let wanted = ask.topics.clone().unwrap_or_else(|| offsets.committed.keys().map(topic).collect());
        let topics = each!(wanted, partition_indexes => OffsetFetchResponseTopic.partitions, |name, one| {
            let place = (name.to_string(), *one);
            let is_stable = !ask.require_stable || !offsets.is_unstable(&place);
            let stable = self.allow().and_then(|()| ensure(is_stable, UnstableOffsetCommit));
            let committed = offsets.committed.get(&place).filter(|_| stable.is_ok());
            let (offset, epoch, words) = committed.cloned().unwrap_or((-1, -1, String::new()));
            let (partition_index, metadata, error_code) = (*one, Some(words.into()), code(&stable));
            made!(OffsetFetchResponsePartition { partition_index, committed_offset: offset,
                committed_leader_epoch: epoch, metadata, error_code })
        });
        made!(OffsetFetchResponse { topics, error_code: code(&self.allow()) })
    }

    pub fn describe_groups(&mut self, ask: &DescribeGroupsRequest) -> DescribeGroupsResponse {
        let none = made!(DescribedGroup { group_state: "Dead".into(), error_code: code(&self.allow()) });
        let one = |id: &GroupId| {
            let group = self.groups.get(&***id).filter(|_| self.forced.is_none());
            let mut described = group.map_or_else(|| none.clone(), describe);
            described.group_id = id.clone();
            described
        };
        made!(DescribeGroupsResponse { groups: ask.groups.iter().map(one).collect() })
    }

    pub fn list_groups(&mut self, _: &ListGroupsRequest) -> ListGroupsResponse {
        let one = |(id, group): (&String, &Group)| {
            let protocol_type = group.protocol_type.clone().into();
            made!(ListedGroup { group_id: StrBytes::from(id.clone()).into(), protocol_type })
        };
        let groups = self.groups.iter().map(one).collect();
        made!(ListGroupsResponse { error_code: code(&self.allow()), groups })
    }
}

fn describe(group: &Group) -> DescribedGroup {
    let protocol = group.protocol.clone().unwrap_or_default();
    let members = group.members.iter().map(|(id, member)| {
        made!(DescribedGroupMember {
            member_id: id.clone().into(),
            group_instance_id: member.instance.clone().map(Into::into),
            client_id: member.client.clone().into(),
            member_metadata: member.metadata(&protocol),
            member_assignment: member.assignment.clone(),
        })
    });
    made!(DescribedGroup {
        members: members.collect(),
        group_state: format!("{:?}", group.phase).into(),
        protocol_type: group.protocol_type.clone().into(),
        protocol_data: StrBytes::from(if group.phase == Phase::Stable { protocol } else { String::new() }),
    })
}
