//! Connections: frames in, requests to their handlers, answers out in the order of the requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::error::ParseResponseErrorCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::faults::{Action, Faults};
use super::member::{refused_join, refused_sync};
use super::state::{Call, State};
use super::wire::*;

/// Largest request, as Kafka's `socket.request.max.bytes`.
const REQUEST_BYTES_MAX: usize = 100 << 20;
/// Shortest and longest session of a group's member, in milliseconds.
const SESSION_MILLIS: std::ops::RangeInclusive<i32> = 1_000..=1_800_000;

/// Writes the table of what is served, API, lowest and highest version, and has those that name a handler answered
/// by it at once.
macro_rules! served {
    ($($waits:ident $low:literal $high:literal),*; $($api:ident $lowest:literal $highest:literal $handler:ident),*) => {
        const APIS: &[(ApiKey, i16, i16)] =
            &[$((ApiKey::$waits, $low, $high),)* $((ApiKey::$api, $lowest, $highest),)*];

        fn at_once(state: &mut State, call: &Call, request: &Request) -> anyhow::Result<Outcome> {
            match request.api {
                $(ApiKey::$api => reply(request, &state.$handler(call, &read(request)?)),)*
                other => anyhow::bail!("{other:?} is not served"),
            }
        }
    };
}

// Produce and Fetch are advertised from 0, as Kafka does: librdkafka takes it for a sign of what a broker can do.
served! {
    Produce 0 9, Fetch 0 11, JoinGroup 0 7, SyncGroup 0 5, ApiVersions 0 3;
    ListOffsets 1 6 list_offsets, Metadata 0 9 metadata, OffsetCommit 2 8 offset_commit,
    OffsetFetch 1 7 offset_fetch, FindCoordinator 0 3 find_coordinator, Heartbeat 0 4 heartbeat,
    LeaveGroup 0 5 leave_group, DescribeGroups 0 5 describe_groups, ListGroups 0 3 list_groups,
    CreateTopics 2 6 create_topics, DeleteTopics 1 5 delete_topics,
    InitProducerId 0 4 init_producer_id, AddPartitionsToTxn 0 3 add_partitions, AddOffsetsToTxn 0 3 add_offsets,
    EndTxn 0 3 end_txn, TxnOffsetCommit 0 3 txn_offset_commit, DescribeConfigs 1 4 describe_configs,
    AlterConfigs 0 2 alter_configs, CreatePartitions 0 3 create_partitions
}

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
        let Some((action, hits)) = self.shared.faults.meet(request.api) else {
            return self.answer(request, None).await;
        };
        match action {
            Action::DropRequest => return Ok(Outcome::Silence),
            Action::CloseBefore => return Ok(Outcome::Close),
            Action::Error(code) => return self.answer(request, code.err()).await,
            Action::Delay(time) => tokio::time::sleep(time).await,
            Action::Duplicate => drop(self.answer(request.clone(), None).await?),
            Action::Hold => hits.released().await,
            Action::DropResponse | Action::CloseAfter => {}
        }
        let answer = self.answer(request, None).await?;
        Ok(match action {
            Action::DropResponse => Outcome::Silence,
            Action::CloseAfter => Outcome::Close,
            _ => answer,
        })
    }

    async fn answer(&self, request: Request, forced: Option<ResponseError>) -> anyhow::Result<Outcome> {
        let (version, client) = (request.version, request.client.clone());
        let call = Call { version, client, now: Instant::now(), forced };
        match request.api {
            ApiKey::ApiVersions => reply(&request, &versions(code(&call.allow()))),
            ApiKey::Produce => {
                let ask: ProduceRequest = read(&request)?;
                let response = self.shared.state().produce(&call, &ask);
                if ask.acks == 0 { Ok(Outcome::Silence) } else { reply(&request, &response) }
            }
            ApiKey::Fetch => self.fetch(&request, &call).await,
            ApiKey::JoinGroup => self.join(&request, &call).await,
            ApiKey::SyncGroup => self.sync(&request, &call).await,
            _ => at_once(&mut self.shared.state(), &call, &request),
        }
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
        let allowed = call.allow().and_then(|()| match ask.session_timeout_ms {
            _ if ask.group_id.is_empty() => Err(ResponseError::InvalidGroupId),
            millis if !SESSION_MILLIS.contains(&millis) => Err(ResponseError::InvalidSessionTimeout),
            _ => Ok(()),
        });
        let later = allowed.map(|()| {
            let mut state = self.shared.state();
            let group = state.groups.entry(ask.group_id.to_string()).or_default();
            group.join(&ask, &call.client, call.version >= 4, call.now)
        });
        let gone = |error| refused_join(error, &ask.member_id);
        let mut response = match later {
            Ok(later) => later.await.unwrap_or_else(|_| gone(ResponseError::UnknownMemberId)),
            Err(error) => gone(error),
        };
        if call.version >= 7 {
            response.protocol_type = Some(ask.protocol_type.clone());
        }
        if call.version < 5 {
            response.members.iter_mut().for_each(|member| member.group_instance_id = None);
        }
        reply(request, &response)
    }

    async fn sync(&self, request: &Request, call: &Call) -> anyhow::Result<Outcome> {
        let ask: SyncGroupRequest = read(request)?;
        let later = call
            .allow()
            .and_then(|()| Ok(self.shared.state().known_group(&ask.group_id)?.sync(&ask, call.now)));
        let mut response = match later {
            Ok(later) => later.await.unwrap_or_else(|_| refused_sync(ResponseError::UnknownMemberId)),
            Err(error) => refused_sync(error),
        };
        if call.version < 5 {
            (response.protocol_type, response.protocol_name) = (None, None);
        }
        reply(request, &response)
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
        let request = Request { api, version: 0, correlation, client: String::new(), body: Bytes::new() };
        return Ok(Err(encode(&request, &versions(ResponseError::UnsupportedVersion.code()))?));
    }
    let header = RequestHeader::decode(&mut frame, api.request_header_version(version))?;
    let client = header.client_id.map(|client| client.to_string()).unwrap_or_default();
    Ok(Ok(Request { api, version, correlation, client, body: frame }))
}

fn versions(error_code: i16) -> ApiVersionsResponse {
    let one = |&(api, lowest, highest): &(ApiKey, i16, i16)| {
        made!(ApiVersion { api_key: api as i16, min_version: lowest, max_version: highest })
    };
    made!(ApiVersionsResponse { error_code: error_code, api_keys: APIS.iter().map(one).collect() })
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
