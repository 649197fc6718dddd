//! Requests about groups that are answered at once.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, GroupId, HeartbeatRequest, HeartbeatResponse,
    LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse,
};

use super::group::{Group, Phase};
use super::group_offsets::{Committed, Place};
use super::server::{NODE, text};
use super::state::{Call, State, code};

/// `offset.metadata.max.bytes`.
pub(super) const METADATA_BYTES_MAX: usize = 4096;

impl State {
    pub(super) fn find_coordinator(
        &mut self,
        call: &Call,
        _: &FindCoordinatorRequest,
    ) -> FindCoordinatorResponse {
        if let Err(error) = call.allow() {
            return FindCoordinatorResponse::default().with_error_code(error.code()).with_port(-1);
        }
        FindCoordinatorResponse::default()
            .with_node_id(NODE)
            .with_host(text(self.address.ip().to_string()))
            .with_port(i32::from(self.address.port()))
    }

    pub(super) fn heartbeat(&mut self, call: &Call, ask: &HeartbeatRequest) -> HeartbeatResponse {
        let result = call.allow().and_then(|()| {
            let group = self.groups.get_mut(&**ask.group_id).ok_or(ResponseError::UnknownMemberId)?;
            let instance = ask.group_instance_id.as_deref();
            group.heartbeat(&ask.member_id, instance, ask.generation_id, call.now)
        });
        HeartbeatResponse::default().with_error_code(code(result))
    }

    pub(super) fn leave_group(&mut self, call: &Call, ask: &LeaveGroupRequest) -> LeaveGroupResponse {
        let mut leave = |member: &MemberIdentity| {
            call.allow()?;
            let group = self.groups.get_mut(&**ask.group_id).ok_or(ResponseError::UnknownMemberId)?;
            group.leave(&member.member_id, member.group_instance_id.as_deref(), call.now)
        };
        if call.version < 3 {
            let member = MemberIdentity::default().with_member_id(ask.member_id.clone());
            return LeaveGroupResponse::default().with_error_code(code(leave(&member)));
        }
        let one = |member: &MemberIdentity| {
            MemberResponse::default()
                .with_member_id(member.member_id.clone())
                .with_group_instance_id(member.group_instance_id.clone())
                .with_error_code(code(leave(member)))
        };
        let members = ask.members.iter().map(one).collect();
        LeaveGroupResponse::default().with_error_code(code(call.allow())).with_members(members)
    }

    pub(super) fn offset_commit(&mut self, call: &Call, ask: &OffsetCommitRequest) -> OffsetCommitResponse {
        let allowed = call.allow().and_then(|()| {
            let group = self.groups.entry(ask.group_id.to_string()).or_default();
            let instance = ask.group_instance_id.as_deref();
            let who = (&*ask.member_id, instance, ask.generation_id_or_member_epoch);
            group.may_commit(who, false, call.now)
        });
        let mut topics = Vec::new();
        for topic in &ask.topics {
            let mut partitions = Vec::new();
            for one in &topic.partitions {
                let metadata = one.committed_metadata.as_deref().map(ToString::to_string).unwrap_or_default();
                let result = allowed.and_then(|()| {
                    self.partition(&topic.name, one.partition_index)?;
                    if metadata.len() > METADATA_BYTES_MAX {
                        return Err(ResponseError::OffsetMetadataTooLarge);
                    }
                    let group = self.groups.entry(ask.group_id.to_string()).or_default();
                    let place = (topic.name.to_string(), one.partition_index);
                    let (offset, leader_epoch) = (one.committed_offset, one.committed_leader_epoch);
                    group.offsets.committed.insert(place, Committed { offset, leader_epoch, metadata });
                    Ok(())
                });
                let response =
                    OffsetCommitResponsePartition::default().with_partition_index(one.partition_index);
                partitions.push(response.with_error_code(code(result)));
            }
            let response = OffsetCommitResponseTopic::default().with_name(topic.name.clone());
            topics.push(response.with_partitions(partitions));
        }
        OffsetCommitResponse::default().with_topics(topics)
    }

    pub(super) fn offset_fetch(&mut self, call: &Call, ask: &OffsetFetchRequest) -> OffsetFetchResponse {
        if let Err(error) = call.allow() {
            return OffsetFetchResponse::default().with_error_code(error.code());
        }
        let none = Group::default();
        let group = self.groups.get(&**ask.group_id).unwrap_or(&none);
        let all = || {
            let mut topics: Vec<OffsetFetchRequestTopic> = Vec::new();
            for (topic, index) in group.offsets.committed.keys() {
                match topics.last_mut().filter(|last| **last.name == **topic) {
                    Some(last) => last.partition_indexes.push(*index),
                    None => topics.push(
                        OffsetFetchRequestTopic::default()
                            .with_name(text(topic.clone()).into())
                            .with_partition_indexes(vec![*index]),
                    ),
                }
            }
            topics
        };
        let wanted = ask.topics.clone().unwrap_or_else(all);
        let topic = |topic: OffsetFetchRequestTopic| {
            let one = |index: &i32| {
                let response =
                    fetched(group, &(topic.name.to_string(), *index), ask.require_stable, call.version);
                response.with_partition_index(*index)
            };
            let partitions = topic.partition_indexes.iter().map(one).collect();
            OffsetFetchResponseTopic::default().with_partitions(partitions).with_name(topic.name)
        };
        OffsetFetchResponse::default().with_topics(wanted.into_iter().map(topic).collect())
    }

    pub(super) fn describe_groups(
        &mut self,
        call: &Call,
        ask: &DescribeGroupsRequest,
    ) -> DescribeGroupsResponse {
        let one = |id: &GroupId| {
            let description = DescribedGroup::default().with_group_id(id.clone());
            match (call.allow(), self.groups.get(&***id)) {
                (Err(error), _) => description.with_error_code(error.code()),
                (Ok(()), None) => description.with_group_state(text("Dead")),
                (Ok(()), Some(group)) => describe(description, group, call.version),
            }
        };
        DescribeGroupsResponse::default().with_groups(ask.groups.iter().map(one).collect())
    }

    pub(super) fn list_groups(&mut self, call: &Call, ask: &ListGroupsRequest) -> ListGroupsResponse {
        if let Err(error) = call.allow() {
            return ListGroupsResponse::default().with_error_code(error.code());
        }
        let wanted = |state: &str| {
            let filter = &ask.states_filter;
            filter.is_empty() || filter.iter().any(|one| one.eq_ignore_ascii_case(state))
        };
        let listed = self.groups.iter().filter(|(_, group)| wanted(phase_name(group))).map(|(id, group)| {
            let listed = ListedGroup::default()
                .with_group_id(text(id.clone()).into())
                .with_protocol_type(text(group.protocol_type.clone()));
            if call.version >= 4 { listed.with_group_state(text(phase_name(group))) } else { listed }
        });
        ListGroupsResponse::default().with_groups(listed.collect())
    }

    pub(super) fn delete_groups(&mut self, call: &Call, ask: &DeleteGroupsRequest) -> DeleteGroupsResponse {
        let mut delete = |id: &GroupId| {
            call.allow()?;
            let group = self.groups.get(&***id).ok_or(ResponseError::GroupIdNotFound)?;
            if group.phase != Phase::Empty {
                return Err(ResponseError::NonEmptyGroup);
            }
            self.groups.remove(&***id);
            Ok(())
        };
        let one = |id: &GroupId| {
            DeletableGroupResult::default().with_group_id(id.clone()).with_error_code(code(delete(id)))
        };
        DeleteGroupsResponse::default().with_results(ask.groups_names.iter().map(one).collect())
    }
}

fn fetched(group: &Group, place: &Place, stable: bool, version: i16) -> OffsetFetchResponsePartition {
    let response = OffsetFetchResponsePartition::default().with_committed_offset(-1);
    let nothing = response.clone().with_metadata(Some(text("")));
    if stable && group.offsets.is_unstable(place) {
        return nothing.with_error_code(ResponseError::UnstableOffsetCommit.code());
    }
    let Some(committed) = group.offsets.committed.get(place) else { return nothing };
    let response = response
        .with_committed_offset(committed.offset)
        .with_metadata(Some(text(committed.metadata.clone())));
    if version >= 5 { response.with_committed_leader_epoch(committed.leader_epoch) } else { response }
}

fn phase_name(group: &Group) -> &'static str {
    match group.phase {
        Phase::Empty => "Empty",
        Phase::Preparing => "PreparingRebalance",
        Phase::Completing => "CompletingRebalance",
        Phase::Stable => "Stable",
    }
}

fn describe(description: DescribedGroup, group: &Group, version: i16) -> DescribedGroup {
    let protocol = group.protocol.clone().unwrap_or_default();
    let members = group.members.iter().map(|(id, member)| {
        let described = DescribedGroupMember::default()
            .with_member_id(text(id.clone()))
            .with_client_id(text(member.client.clone()))
            .with_client_host(text("/127.0.0.1"))
            .with_member_metadata(member.metadata(&protocol))
            .with_member_assignment(member.assignment.clone());
        if version >= 4 {
            described.with_group_instance_id(member.instance.clone().map(text))
        } else {
            described
        }
    });
    description
        .with_group_state(text(phase_name(group)))
        .with_protocol_type(text(group.protocol_type.clone()))
        .with_members(members.collect())
        .with_protocol_data(text(if group.phase == Phase::Stable { protocol } else { String::new() }))
}
