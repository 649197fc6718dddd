//! Connections: frames in, requests to their handlers, answers out in the order of the requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::error::{ParseResponseErrorCode, ResponseError};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerId, FetchRequest, JoinGroupRequest, JoinGroupResponse, ProduceRequest,
    RequestHeader, ResponseHeader, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::faults::{Action, Faults, Verdict};
use super::member::{refused_join, refused_sync};
use super::state::{Call, State, code};

/// The only node of the cluster.
pub(super) const NODE: BrokerId = BrokerId(1);
/// Largest request, as Kafka's `socket.request.max.bytes`.
const REQUEST_BYTES_MAX: usize = 100 << 20;
/// Shortest and longest session of a group's member, in milliseconds.
const SESSION_MILLIS: std::ops::RangeInclusive<i32> = 1_000..=1_800_000;

/// What is served: API, lowest and highest version. Produce and Fetch are advertised from 0, as Kafka does, because
/// librdkafka takes it for a sign of what a broker can do.
const APIS: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Produce, 0, 9),
    (ApiKey::Fetch, 0, 11),
    (ApiKey::ListOffsets, 1, 6),
    (ApiKey::Metadata, 0, 9),
    (ApiKey::OffsetCommit, 2, 8),
    (ApiKey::OffsetFetch, 1, 7),
    (ApiKey::FindCoordinator, 0, 3),
    (ApiKey::JoinGroup, 0, 7),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 5),
    (ApiKey::SyncGroup, 0, 5),
    (ApiKey::DescribeGroups, 0, 5),
    (ApiKey::ListGroups, 0, 4),
    (ApiKey::ApiVersions, 0, 3),
    (ApiKey::CreateTopics, 2, 6),
    (ApiKey::DeleteTopics, 1, 5),
    (ApiKey::DeleteRecords, 0, 2),
    (ApiKey::InitProducerId, 0, 4),
    (ApiKey::AddPartitionsToTxn, 0, 3),
    (ApiKey::AddOffsetsToTxn, 0, 3),
    (ApiKey::EndTxn, 0, 3),
    (ApiKey::TxnOffsetCommit, 0, 3),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::AlterConfigs, 0, 2),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
];

pub(super) struct Shared {
    state: Mutex<State>,
    pub faults: Faults,
}

impl Shared {
    pub(super) fn new(state: State, faults: Faults) -> Self {
        Self { state: Mutex::new(state), faults }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a request ends for its connection.
enum Outcome {
    Answer(Bytes),
    Silence,
    Close,
}

/// A request whose header was read.
#[derive(Clone)]
struct Request {
    api: ApiKey,
    version: i16,
    correlation: i32,
    client: String,
    body: Bytes,
}

struct Connection {
    shared: Arc<Shared>,
    /// Told when a fetch that waits may go on.
    waiting: Arc<Notify>,
}

/// Serves a client until it goes.
pub(super) async fn serve(mut stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let connection = Connection { shared, waiting: Arc::new(Notify::new()) };
    let _ = stream.set_nodelay(true);
    while let Ok(length) = stream.read_u32().await {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > REQUEST_BYTES_MAX {
            tracing::warn!(%peer, length, "not a Kafka client, or a request that is too large");
            return;
        }
        let mut frame = BytesMut::with_capacity(length);
        while frame.len() < length {
            let mut rest = (&mut stream).take(u64::try_from(length - frame.len()).unwrap_or(0));
            if !matches!(rest.read_buf(&mut frame).await, Ok(1..)) {
                return;
            }
        }
        match connection.meet(frame.freeze()).await {
            Ok(Outcome::Answer(bytes)) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Ok(Outcome::Silence) => {}
            Ok(Outcome::Close) => return,
            Err(error) => {
                tracing::warn!(%peer, %error, "a request that the development broker cannot read or answer");
                return;
            }
        }
    }
}

impl Connection {
    /// Carries a request out, unless a fault has another idea.
    async fn meet(&self, frame: Bytes) -> anyhow::Result<Outcome> {
        let request = match parse(frame)? {
            Ok(request) => request,
            Err(unknown_version) => return Ok(Outcome::Answer(unknown_version)),
        };
        let action = match self.shared.faults.meet(request.api as i16) {
            None => return self.answer(request, None).await,
            Some(Verdict::Wait(held)) => {
                held.released().await;
                return self.answer(request, None).await;
            }
            Some(Verdict::Do(action)) => action,
        };
        match action {
            Action::DropRequest => Ok(Outcome::Silence),
            Action::CloseBefore => Ok(Outcome::Close),
            Action::Error(code) => self.answer(request, code.err()).await,
            Action::Hold => self.answer(request, None).await,
            Action::Delay(time) => {
                tokio::time::sleep(time).await;
                self.answer(request, None).await
            }
            Action::DropResponse => self.answer(request, None).await.map(|_| Outcome::Silence),
            Action::CloseAfter => self.answer(request, None).await.map(|_| Outcome::Close),
            Action::Duplicate => {
                self.answer(request.clone(), None).await?;
                self.answer(request, None).await
            }
        }
    }

    async fn answer(&self, request: Request, forced: Option<ResponseError>) -> anyhow::Result<Outcome> {
        let call =
            Call { version: request.version, client: request.client.clone(), now: Instant::now(), forced };
        match request.api {
            ApiKey::ApiVersions => reply(&request, &versions(&call)),
            ApiKey::Produce => {
                let ask: ProduceRequest = read(&request)?;
                let response = self.shared.state().produce(&call, &ask);
                if ask.acks == 0 { Ok(Outcome::Silence) } else { reply(&request, &response) }
            }
            ApiKey::Fetch => self.fetch(&request, &call).await,
            ApiKey::JoinGroup => self.join(&request, &call).await,
            ApiKey::SyncGroup => self.sync(&request, &call).await,
            ApiKey::ListOffsets => self.at_once(&request, &call, State::list_offsets),
            ApiKey::Metadata => self.at_once(&request, &call, State::metadata),
            ApiKey::OffsetCommit => self.at_once(&request, &call, State::offset_commit),
            ApiKey::OffsetFetch => self.at_once(&request, &call, State::offset_fetch),
            ApiKey::FindCoordinator => self.at_once(&request, &call, State::find_coordinator),
            ApiKey::Heartbeat => self.at_once(&request, &call, State::heartbeat),
            ApiKey::LeaveGroup => self.at_once(&request, &call, State::leave_group),
            ApiKey::DescribeGroups => self.at_once(&request, &call, State::describe_groups),
            ApiKey::ListGroups => self.at_once(&request, &call, State::list_groups),
            ApiKey::DeleteGroups => self.at_once(&request, &call, State::delete_groups),
            ApiKey::CreateTopics => self.at_once(&request, &call, State::create_topics),
            ApiKey::DeleteTopics => self.at_once(&request, &call, State::delete_topics),
            ApiKey::DeleteRecords => self.at_once(&request, &call, State::delete_records),
            ApiKey::CreatePartitions => self.at_once(&request, &call, State::create_partitions),
            ApiKey::DescribeConfigs => self.at_once(&request, &call, State::describe_configs),
            ApiKey::AlterConfigs => self.at_once(&request, &call, State::alter_configs),
            ApiKey::IncrementalAlterConfigs => {
                self.at_once(&request, &call, State::incremental_alter_configs)
            }
            ApiKey::InitProducerId => self.at_once(&request, &call, State::init_producer_id),
            ApiKey::AddPartitionsToTxn => self.at_once(&request, &call, State::add_partitions),
            ApiKey::AddOffsetsToTxn => self.at_once(&request, &call, State::add_offsets),
            ApiKey::EndTxn => self.at_once(&request, &call, State::end_txn),
            ApiKey::TxnOffsetCommit => self.at_once(&request, &call, State::txn_offset_commit),
            other => anyhow::bail!("{other:?} is not served"),
        }
    }

    fn at_once<Q: Decodable, R: Encodable>(
        &self,
        request: &Request,
        call: &Call,
        handle: impl FnOnce(&mut State, &Call, &Q) -> R,
    ) -> anyhow::Result<Outcome> {
        let ask = read(request)?;
        let response = handle(&mut self.shared.state(), call, &ask);
        reply(request, &response)
    }

    async fn fetch(&self, request: &Request, call: &Call) -> anyhow::Result<Outcome> {
        let ask: FetchRequest = read(request)?;
        let wait = Duration::from_millis(u64::try_from(ask.max_wait_ms).unwrap_or(0));
        let deadline = call.now + wait;
        loop {
            let last = Instant::now() >= deadline;
            let found = self.shared.state().fetch(call, &ask, &self.waiting, last);
            if let Some(response) = found {
                return reply(request, &response);
            }
            let _ = tokio::time::timeout_at(deadline.into(), self.waiting.notified()).await;
        }
    }

    async fn join(&self, request: &Request, call: &Call) -> anyhow::Result<Outcome> {
        let ask: JoinGroupRequest = read(request)?;
        let refused = match call.allow() {
            Err(error) => Some(error),
            Ok(()) if ask.group_id.is_empty() => Some(ResponseError::InvalidGroupId),
            Ok(()) if !SESSION_MILLIS.contains(&ask.session_timeout_ms) => {
                Some(ResponseError::InvalidSessionTimeout)
            }
            Ok(()) => None,
        };
        let gone = |error| refused_join(error, &ask.member_id);
        let mut response = match refused {
            Some(error) => gone(error),
            None => {
                let later = {
                    let mut state = self.shared.state();
                    let group = state.groups.entry(ask.group_id.to_string()).or_default();
                    group.join(&ask, &call.client, call.version >= 4, call.now)
                };
                later.await.unwrap_or_else(|_| gone(ResponseError::UnknownMemberId))
            }
        };
        if call.version >= 7 {
            response.protocol_type = Some(ask.protocol_type.clone());
        }
        if call.version < 5 {
            response.members.iter_mut().for_each(|member| member.group_instance_id = None);
        }
        reply::<JoinGroupResponse>(request, &response)
    }

    async fn sync(&self, request: &Request, call: &Call) -> anyhow::Result<Outcome> {
        let ask: SyncGroupRequest = read(request)?;
        let later = call.allow().and_then(|()| {
            let mut state = self.shared.state();
            let group = state.groups.get_mut(&**ask.group_id).ok_or(ResponseError::UnknownMemberId)?;
            Ok(group.sync(&ask, call.now))
        });
        let mut response = match later {
            Ok(later) => later.await.unwrap_or_else(|_| refused_sync(ResponseError::UnknownMemberId)),
            Err(error) => refused_sync(error),
        };
        if call.version < 5 {
            (response.protocol_type, response.protocol_name) = (None, None);
        }
        reply::<SyncGroupResponse>(request, &response)
    }
}

/// Reads a request's header. The inner error is the answer to a version that is not served: clients ask for the
/// versions with their newest, and are told in the oldest form.
fn parse(mut frame: Bytes) -> anyhow::Result<Result<Request, Bytes>> {
    anyhow::ensure!(frame.len() >= 8, "a request of {} bytes", frame.len());
    let mut ahead = frame.clone();
    let (key, version, correlation) = (ahead.get_i16(), ahead.get_i16(), ahead.get_i32());
    let served = APIS.iter().find(|(api, ..)| *api as i16 == key);
    let (api, lowest, highest) = *served.ok_or_else(|| anyhow::anyhow!("API {key} is not served"))?;
    if !(lowest..=highest).contains(&version) {
        anyhow::ensure!(api == ApiKey::ApiVersions, "{api:?} is not served in version {version}");
        let body = Bytes::new();
        let request = Request { api, version: 0, correlation, client: String::new(), body };
        let call = Call { version: 0, client: String::new(), now: Instant::now(), forced: None };
        let response = versions(&call).with_error_code(ResponseError::UnsupportedVersion.code());
        return Ok(Err(encode(&request, &response)?));
    }
    let header = RequestHeader::decode(&mut frame, api.request_header_version(version))?;
    let client = header.client_id.map(|client| client.to_string()).unwrap_or_default();
    Ok(Ok(Request { api, version, correlation, client, body: frame }))
}

fn versions(call: &Call) -> ApiVersionsResponse {
    let one = |&(api, lowest, highest): &(ApiKey, i16, i16)| {
        ApiVersion::default().with_api_key(api as i16).with_min_version(lowest).with_max_version(highest)
    };
    let response = ApiVersionsResponse::default().with_error_code(code(call.allow()));
    response.with_api_keys(APIS.iter().map(one).collect())
}

fn read<Q: Decodable>(request: &Request) -> anyhow::Result<Q> {
    Q::decode(&mut request.body.clone(), request.version)
}

fn reply<R: Encodable>(request: &Request, response: &R) -> anyhow::Result<Outcome> {
    encode(request, response).map(Outcome::Answer)
}

fn encode<R: Encodable>(request: &Request, response: &R) -> anyhow::Result<Bytes> {
    let size = response.compute_size(request.version)?;
    let mut bytes = BytesMut::with_capacity(size + 16);
    bytes.put_u32(0);
    let header = ResponseHeader::default().with_correlation_id(request.correlation);
    header.encode(&mut bytes, request.api.response_header_version(request.version))?;
    response.encode(&mut bytes, request.version)?;
    let length = u32::try_from(bytes.len() - 4)?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes.freeze())
}

/// A string in the protocol's form.
pub(super) fn text(text: impl Into<StrBytes>) -> StrBytes {
    text.into()
}
