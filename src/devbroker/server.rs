//! Connections: frames in, requests to their handlers, answers out in the order of the requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::faults::{Action, Faults};
use super::group::Later;
use super::state::State;
use super::wire::*;

/// Largest request, as Kafka's `socket.request.max.bytes`.
const REQUEST_BYTES_MAX: usize = 100 << 20;

/// Writes the table of what is served, API, lowest and highest version, and has those that name a handler answered
/// by it at once.
macro_rules! served {
    ($($waits:ident $low:literal $high:literal),*;
     $($api:ident $lowest:literal $highest:literal $handler:ident),*) => {
        const APIS: &[(ApiKey, i16, i16)] =
            &[$((ApiKey::$waits, $low, $high),)* $((ApiKey::$api, $lowest, $highest),)*];

        fn at_once(state: &mut State, call: &Call) -> anyhow::Result<Reply> {
            match call.api {
                $(ApiKey::$api => call.reply(&state.$handler(&call.read()?)),)*
                other => anyhow::bail!("{other:?} is not served"),
            }
        }
    };
}

// The lowest versions are about those of Kafka 4. Produce and Fetch are advertised from 0, as Kafka does: librdkafka
// takes it for a sign of what a broker can do.
served! {
    Produce 0 9, Fetch 0 11, JoinGroup 2 6, SyncGroup 0 4;
    ApiVersions 0 3 api_versions, Metadata 1 9 metadata, ListOffsets 1 6 list_offsets,
    DeleteRecords 0 2 delete_records, FindCoordinator 0 3 find_coordinator, Heartbeat 0 4 heartbeat,
    LeaveGroup 0 2 leave_group, OffsetCommit 2 8 offset_commit, OffsetFetch 1 7 offset_fetch,
    DescribeGroups 0 5 describe_groups, ListGroups 0 3 list_groups, CreateTopics 2 6 create_topics,
    DeleteTopics 1 5 delete_topics, CreatePartitions 0 3 create_partitions,
    DescribeConfigs 1 4 describe_configs, AlterConfigs 0 2 alter_configs,
    InitProducerId 0 4 init_producer_id, AddPartitionsToTxn 0 3 add_partitions,
    AddOffsetsToTxn 0 3 add_offsets, TxnOffsetCommit 0 3 txn_offset_commit, EndTxn 0 3 end_txn
}

/// What all connections share.
pub struct Shared {
    pub state: Mutex<State>,
    pub faults: Faults,
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept, to carry a request out on.
    fn state_for(&self, call: &Call) -> MutexGuard<'_, State> {
        let mut state = self.state();
        (state.version, state.forced) = (call.version, call.forced);
        state
    }
}

/// What goes back for a request, empty when it is not answered; without it the connection is closed.
type Reply = Option<Bytes>;

/// A request whose header was read.
#[derive(Clone)]
pub struct Call {
    api: ApiKey,
    pub version: i16,
    correlation: i32,
    pub client: String,
    body: Bytes,
    /// The error it is to be refused with.
    forced: Option<ResponseError>,
}

struct Connection {
    shared: Arc<Shared>,
    /// Told when a fetch that waits may go on.
    waiting: Arc<Notify>,
}

/// Serves a client until it goes.
pub async fn serve(mut stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let connection = Connection { shared, waiting: Arc::new(Notify::new()) };
    let _ = stream.set_nodelay(true);
    while let Ok(length) = stream.read_u32().await {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > REQUEST_BYTES_MAX {
            tracing::warn!(%peer, length, "not a Kafka client, or a request that is too large");
            return;
        }
        let mut frame = vec![0; length];
        if stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        let reply = connection.meet(frame.into()).await.unwrap_or_else(|error| {
            tracing::warn!(%peer, %error, "a request that the development broker cannot read or answer");
            None
        });
        let Some(reply) = reply else { return };
        if stream.write_all(&reply).await.is_err() {
            return;
        }
    }
}

impl Connection {
    /// Carries a request out, unless a fault has another idea.
    async fn meet(&self, frame: Bytes) -> anyhow::Result<Reply> {
        let mut call = Call::parse(frame)?;
        let Some((action, hits)) = self.shared.faults.meet(call.api) else { return self.answer(call).await };
        match action {
            Action::DropRequest => return Ok(Some(Bytes::new())),
            Action::CloseBefore => return Ok(None),
            Action::Error(code) => call.forced = ResponseError::try_from_code(code),
            Action::Delay(time) => tokio::time::sleep(time).await,
            Action::Duplicate => drop(self.answer(call.clone()).await?),
            Action::Hold => drop(hits.gate.acquire().await),
            Action::DropResponse | Action::CloseAfter => {}
        }
        let answer = self.answer(call).await?;
        Ok(match action {
            Action::DropResponse => Some(Bytes::new()),
            Action::CloseAfter => None,
            _ => answer,
        })
    }

    async fn answer(&self, call: Call) -> anyhow::Result<Reply> {
        match call.api {
            ApiKey::Produce => {
                let ask: ProduceRequest = call.read()?;
                let response = self.shared.state_for(&call).produce(&ask);
                if ask.acks == 0 { Ok(Some(Bytes::new())) } else { call.reply(&response) }
            }
            ApiKey::Fetch => self.fetch(&call).await,
            ApiKey::JoinGroup => {
                let ask: JoinGroupRequest = call.read()?;
                let later = self.shared.state_for(&call).join_group(&call, &ask);
                let member_id = ask.member_id;
                let refused =
                    |error: ResponseError| made!(JoinGroupResponse { error_code: error.code(), member_id });
                call.reply(&settled(later).await.unwrap_or_else(refused))
            }
            ApiKey::SyncGroup => {
                let later = self.shared.state_for(&call).sync_group(&call.read()?);
                let refused = |error: ResponseError| made!(SyncGroupResponse { error_code: error.code() });
                call.reply(&settled(later).await.unwrap_or_else(refused))
            }
            _ => at_once(&mut self.shared.state_for(&call), &call),
        }
    }

    async fn fetch(&self, call: &Call) -> anyhow::Result<Reply> {
        let ask: FetchRequest = call.read()?;
        let deadline = Instant::now() + millis(ask.max_wait_ms);
        loop {
            {
                let mut state = self.shared.state_for(call);
                let (response, is_enough) = state.fetch(&ask);
                if is_enough || Instant::now() >= deadline {
                    return call.reply(&response);
                }
                state.wait(&ask, &self.waiting);
            }
            let _ = tokio::time::timeout_at(deadline.into(), self.waiting.notified()).await;
        }
    }
}

/// What a group decides; a member that is forgotten before is not known any more.
async fn settled<R>(later: Later<R>) -> Answer<R> {
    later?.await.unwrap_or(Err(UnknownMemberId))
}

impl Call {
    fn parse(mut body: Bytes) -> anyhow::Result<Self> {
        anyhow::ensure!(body.len() >= 8, "a request of {} bytes", body.len());
        let mut ahead = body.clone();
        let (key, version, correlation) = (ahead.get_i16(), ahead.get_i16(), ahead.get_i32());
        let served = APIS.iter().find(|(api, ..)| *api as i16 == key);
        let (api, lowest, highest) = *served.ok_or_else(|| anyhow::anyhow!("API {key} is not served"))?;
        let (forced, client) = (None, String::new());
        if !(lowest..=highest).contains(&version) {
            // Clients ask for the versions with their newest, and are told in the oldest form.
            anyhow::ensure!(api == ApiKey::ApiVersions, "{api:?} is not served in version {version}");
            let (forced, body) = (Some(UnsupportedVersion), Bytes::new());
            return Ok(Self { api, version: 0, correlation, client, body, forced });
        }
        let header = RequestHeader::decode(&mut body, api.request_header_version(version))?;
        let client = header.client_id.map(|client| client.to_string()).unwrap_or_default();
        Ok(Self { api, version, correlation, client, body, forced })
    }

    fn read<Q: Decodable>(&self) -> anyhow::Result<Q> {
        Q::decode(&mut self.body.clone(), self.version)
    }

    fn reply<R: Encodable>(&self, response: &R) -> anyhow::Result<Reply> {
        let mut bytes = BytesMut::with_capacity(response.compute_size(self.version)? + 16);
        bytes.put_u32(0);
        let header = made!(ResponseHeader { correlation_id: self.correlation });
        header.encode(&mut bytes, self.api.response_header_version(self.version))?;
        response.encode(&mut bytes, self.version)?;
        let length = u32::try_from(bytes.len() - 4)?;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        Ok(Some(bytes.freeze()))
    }
}

impl State {
    fn api_versions(&mut self, _: &ApiVersionsRequest) -> ApiVersionsResponse {
        let one = |&(api, min_version, max_version): &(ApiKey, i16, i16)| {
            made!(ApiVersion { api_key: api as i16, min_version, max_version })
        };
        let (error_code, api_keys) = (code(&self.allow()), APIS.iter().map(one).collect());
        made!(ApiVersionsResponse { error_code, api_keys })
    }
}
