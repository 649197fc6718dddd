//! Requests about groups that are answered at once.

use super::group::{Group, Phase};
use super::group_offsets::{Committed, Place};
use super::state::{Call, State};
use super::wire::*;

impl State {
    pub(super) fn find_coordinator(
        &mut self,
        call: &Call,
        _: &FindCoordinatorRequest,
    ) -> FindCoordinatorResponse {
        let (host, port) = (text(self.address.ip().to_string()), i32::from(self.address.port()));
        made!(FindCoordinatorResponse {
            error_code: code(&call.allow()),
            node_id: NODE,
            host: host,
            port: port
        })
    }

    pub(super) fn heartbeat(&mut self, call: &Call, ask: &HeartbeatRequest) -> HeartbeatResponse {
        let result = call.allow().and_then(|()| {
            let who = (&*ask.member_id, ask.group_instance_id.as_deref(), ask.generation_id);
            self.known_group(&ask.group_id)?.heartbeat(who, call.now)
        });
        made!(HeartbeatResponse { error_code: code(&result) })
    }

    pub(super) fn known_group(&mut self, id: &str) -> Result<&mut Group, ResponseError> {
        self.groups.get_mut(id).ok_or(ResponseError::UnknownMemberId)
    }

    pub(super) fn leave_group(&mut self, call: &Call, ask: &LeaveGroupRequest) -> LeaveGroupResponse {
        let mut leave = |id: &str, instance: Option<&str>| {
            call.allow()?;
            self.known_group(&ask.group_id)?.leave(id, instance, call.now)
        };
        if call.version < 3 {
            return made!(LeaveGroupResponse { error_code: code(&leave(&ask.member_id, None)) });
        }
        let one = |member: &MemberIdentity| {
            made!(MemberResponse {
                member_id: member.member_id.clone(),
                group_instance_id: member.group_instance_id.clone(),
                error_code: code(&leave(&member.member_id, member.group_instance_id.as_deref())),
            })
        };
        let members = ask.members.iter().map(one).collect();
        made!(LeaveGroupResponse { error_code: code(&call.allow()), members: members })
    }

    pub(super) fn offset_commit(&mut self, call: &Call, ask: &OffsetCommitRequest) -> OffsetCommitResponse {
        let allowed = call.allow().and_then(|()| {
            let instance = ask.group_instance_id.as_deref();
            let who = (&*ask.member_id, instance, ask.generation_id_or_member_epoch);
            self.groups.entry(ask.group_id.to_string()).or_default().may_commit(who, false, call.now)
        });
        let topics = per_partition!(ask.topics, partitions => OffsetCommitResponseTopic.partitions, |name, one| {
            let result = allowed.and_then(|()| {
                self.partition(name, one.partition_index)?;
                let offsets = &mut self.groups.entry(ask.group_id.to_string()).or_default().offsets;
                let (offset, epoch) = (one.committed_offset, one.committed_leader_epoch);
                let committed = Committed::new(offset, epoch, one.committed_metadata.as_ref())?;
                offsets.committed.insert((name.to_string(), one.partition_index), committed);
                Ok(())
            });
            made!(OffsetCommitResponsePartition { partition_index: one.partition_index, error_code: code(&result) })
        });
        made!(OffsetCommitResponse { topics: topics })
    }

    pub(super) fn offset_fetch(&mut self, call: &Call, ask: &OffsetFetchRequest) -> OffsetFetchResponse {
        if let Err(error) = call.allow() {
            return made!(OffsetFetchResponse { error_code: error.code() });
        }
        let none = Group::default();
        let group = self.groups.get(&**ask.group_id).unwrap_or(&none);
        let all = || {
            let topic = |(name, index): &Place| {
                let name = text(name.clone()).into();
                made!(OffsetFetchRequestTopic { name: name, partition_indexes: vec![*index] })
            };
            group.offsets.committed.keys().map(topic).collect()
        };
        let wanted = ask.topics.clone().unwrap_or_else(all);
        let topics = per_partition!(wanted, partition_indexes => OffsetFetchResponseTopic.partitions, |name, one| {
            let place = (name.to_string(), *one);
            let unstable = ask.require_stable && group.offsets.is_unstable(&place);
            let committed = group.offsets.committed.get(&place).filter(|_| !unstable);
            let committed = committed.cloned().unwrap_or(Committed::NONE);
            made!(OffsetFetchResponsePartition {
                partition_index: *one,
                committed_offset: committed.offset,
                // Older versions have no such field.
                committed_leader_epoch: if call.version >= 5 { committed.leader_epoch } else { -1 },
                metadata: Some(text(committed.metadata)),
                error_code: if unstable { ResponseError::UnstableOffsetCommit.code() } else { 0 },
            })
        });
        made!(OffsetFetchResponse { topics: topics })
    }

    pub(super) fn describe_groups(
        &mut self,
        call: &Call,
        ask: &DescribeGroupsRequest,
    ) -> DescribeGroupsResponse {
        let one = |id: &GroupId| {
            let mut described = match self.groups.get(&***id).filter(|_| call.forced.is_none()) {
                Some(group) => describe(group, call.version),
                None => made!(DescribedGroup { group_state: text("Dead"), error_code: code(&call.allow()) }),
            };
            described.group_id = id.clone();
            described
        };
        made!(DescribeGroupsResponse { groups: ask.groups.iter().map(one).collect() })
    }

    pub(super) fn list_groups(&mut self, call: &Call, _: &ListGroupsRequest) -> ListGroupsResponse {
        let listed = self.groups.iter().filter(|_| call.forced.is_none()).map(|(id, group)| {
            let (group_id, protocol_type) = (text(id.clone()).into(), text(group.protocol_type.clone()));
            made!(ListedGroup { group_id: group_id, protocol_type: protocol_type })
        });
        made!(ListGroupsResponse { error_code: code(&call.allow()), groups: listed.collect() })
    }
}

fn describe(group: &Group, version: i16) -> DescribedGroup {
    let protocol = group.protocol.clone().unwrap_or_default();
    let members = group.members.iter().map(|(id, member)| {
        made!(DescribedGroupMember {
            member_id: text(id.clone()),
            group_instance_id: member.instance.clone().filter(|_| version >= 4).map(text),
            client_id: text(member.client.clone()),
            client_host: text("/127.0.0.1"),
            member_metadata: member.metadata(&protocol),
            member_assignment: member.assignment.clone(),
        })
    });
    made!(DescribedGroup {
        members: members.collect(),
        group_state: text(group.phase.name()),
        protocol_type: text(group.protocol_type.clone()),
        protocol_data: text(if group.phase == Phase::Stable { protocol } else { String::new() }),
    })
}
