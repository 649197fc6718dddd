//! The proxy of one Kafka node: it knows where a request ends, what it asks for and who sent it, and can play tricks
//! on single ones.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::pump::{Line, locked};
use super::refusal::{self, Place};
use super::wire::{self, Request};

/// A held request is forwarded so long after the first records of a later transaction: they are written by then.
const INTO_THE_NEXT: Duration = Duration::from_millis(20);
/// A request that may be refused goes on when no other has come for so long, or none to its partition for so long: a
/// producer serves its partitions in turns.
const NONE_COMES: Duration = Duration::from_millis(300);
const NEXT_COMES: Duration = Duration::from_millis(2_500);

/// What is done to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trick {
    /// It reaches the broker late, on the connection it came on, when a later transaction of the same id is under
    /// way; in the meantime its sender has given up and asked again elsewhere.
    HoldUntilLaterTransaction,
    /// It never arrives.
    DropRequest,
    /// It arrives; the answer does not.
    DropResponse,
    /// It arrives so much later.
    Delay(Duration),
    /// It arrives twice; the second answer is swallowed.
    Duplicate,
    /// Of a connection's first records for a partition the sender is told, when the next are on their way, that this
    /// node does not lead the partition. They do not arrive; the next do. Not played when no next come.
    RefuseFirst,
}

/// Which requests, how often, and what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Kind of request.
    pub api_key: i16,
    /// How the `client.id` ends.
    pub client: String,
    /// So many of them.
    pub times: u32,
    /// What is done.
    pub trick: Trick,
}

struct Held {
    request: Request,
    frame: Vec<u8>,
    server: TcpStream,
    since: Instant,
    /// Whether a later transaction of its id has named its first partitions.
    is_due: bool,
}

#[derive(Default)]
struct State {
    plans: Vec<Plan>,
    /// Clients whose requests and answers are swallowed.
    cut_off: HashSet<String>,
    held: Vec<Held>,
    /// Who has asked for what here, and how often.
    seen: HashMap<(String, i16), u32>,
    /// Clients that tricks were played on, and those whose requests were forwarded late.
    played: Vec<String>,
    late: Vec<String>,
}

/// The proxy of one node.
pub struct KafkaProxy {
    line: Arc<Line>,
    state: Arc<Mutex<State>>,
}

impl KafkaProxy {
    /// A proxy with a port of its own; where it leads is said later.
    pub fn open() -> io::Result<Self> {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let line = Line::open(move |client, server| serve(&shared, client, server))?;
        Ok(Self { line, state })
    }

    /// Connections through it.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Plays a trick from now on.
    pub fn play(&self, plan: Plan) {
        locked(&self.state).plans.push(plan);
    }

    /// Swallows everything of this client, in both directions, without closing its connections.
    pub fn cut_off(&self, client: &str) {
        locked(&self.state).cut_off.insert(client.to_owned());
    }

    /// No tricks any more for clients whose names end so; held requests of theirs are forgotten.
    pub fn heal(&self, clients: &str) {
        let mut state = locked(&self.state);
        state.plans.retain(|plan| !plan.client.ends_with(clients));
        state.held.retain(|held| !held.request.client.ends_with(clients));
        let before = state.cut_off.len();
        state.cut_off.retain(|client| !client.ends_with(clients));
        let was_cut_off = state.cut_off.len() < before;
        drop(state);
        self.line.reopen();
        if was_cut_off {
            // Requests were swallowed on the connections there are.
            self.line.cut(false);
        }
    }

    /// Whether this client has sent a request of this kind here, as it does to the coordinator of its transactions.
    pub fn has_seen(&self, client: &str, api_key: i16) -> bool {
        locked(&self.state).seen.contains_key(&(client.to_owned(), api_key))
    }

    /// How often each client has sent requests of this kind here.
    pub fn seen(&self, api_key: i16) -> Vec<(String, u32)> {
        let state = locked(&self.state);
        let of_kind = state.seen.iter().filter(|((_, kind), _)| *kind == api_key);
        of_kind.map(|((client, _), times)| (client.clone(), *times)).collect()
    }

    /// Tricks played so far on clients whose names end so, delays left out.
    pub fn played(&self, clients: &str) -> usize {
        locked(&self.state).played.iter().filter(|client| client.ends_with(clients)).count()
    }

    /// Held requests of theirs that were forwarded into a later transaction.
    pub fn late(&self, clients: &str) -> usize {
        locked(&self.state).late.iter().filter(|client| client.ends_with(clients)).count()
    }
}

impl Drop for KafkaProxy {
    fn drop(&mut self) {
        self.line.close();
    }
}

/// Answers that are to be swallowed, and whose they are.
#[derive(Default)]
struct Answers {
    swallowed: HashSet<i32>,
    /// Requests sent twice: one of the two answers is swallowed.
    twice: HashMap<i32, u32>,
    client: String,
}

fn serve(state: &Arc<Mutex<State>>, client: TcpStream, server: TcpStream) {
    let answers: Arc<Mutex<Answers>> = Arc::default();
    let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else { return };
    let to_client = Arc::new(Mutex::new(to_client));
    let down = {
        let (state, answers) = (Arc::clone(state), Arc::clone(&answers));
        let to_client = Arc::clone(&to_client);
        std::thread::spawn(move || bring_answers(&state, &answers, from_server, &to_client))
    };
    let is_held = bring_requests(state, &answers, (client, &to_client), &server).unwrap_or(false);
    if !is_held {
        // Ended already.
        let _ = server.shutdown(Shutdown::Both);
    }
    let _ = down.join();
}

/// A connection's first records for a partition, while they wait for the next to be on their way. One at a time: an
/// idempotent producer has five requests on its way at most.
#[derive(Default)]
struct Firsts {
    seen: HashSet<Place>,
    waiting: Option<(Place, Vec<u8>, Instant)>,
}

impl Firsts {
    /// The next request. What waits is let go when the other request that it waits for does not come.
    fn next_frame(&mut self, client: &mut TcpStream, server: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
        if let Some((_, frame, since)) = &self.waiting {
            client.set_read_timeout(Some(NONE_COMES))?;
            let is_late = client.peek(&mut [0]).is_err() || since.elapsed() > NEXT_COMES;
            client.set_read_timeout(None)?;
            if is_late {
                server.write_all(frame)?;
                self.waiting = None;
            }
        }
        wire::read_frame(client)
    }

    /// Whether this request waits now.
    fn hold(&mut self, frame: &[u8]) -> bool {
        let Some(place) = refusal::place(frame) else { return false };
        let waits = self.seen.insert(place.clone()) && self.waiting.is_none();
        if waits {
            self.waiting = Some((place, frame.to_vec(), Instant::now()));
        }
        waits
    }

    /// The refusal of the request that has waited for this one.
    fn refusal(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let place = refusal::place(frame)?;
        let (_, first, _) = self.waiting.take_if(|(waiting, ..)| *waiting == place)?;
        refusal::not_leader(&first)
    }
}

/// Whether the server's connection is to stay, because a request of it is held.
fn bring_requests(
    state: &Mutex<State>,
    answers: &Mutex<Answers>,
    (mut client, to_client): (TcpStream, &Mutex<TcpStream>),
    server: &TcpStream,
) -> io::Result<bool> {
    let mut to_server = server.try_clone()?;
    let mut is_held = false;
    let mut firsts = Firsts::default();
    loop {
        let frame = match firsts.next_frame(&mut client, &mut to_server) {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(_) => return Ok(is_held),
        };
        let Some(request) = Request::of(&frame) else { return Ok(is_held) };
        locked(answers).client.clone_from(&request.client);
        if firsts.waiting.is_some()
            && request.api_key == wire::PRODUCE
            && let Some(refusal) = firsts.refusal(&frame)
        {
            locked(state).played.push(request.client.clone());
            locked(to_client).write_all(&refusal)?;
        }
        match trick_for(state, &request) {
            Some(Trick::RefuseFirst) if firsts.hold(&frame) => continue,
            None | Some(Trick::RefuseFirst) => to_server.write_all(&frame)?,
            Some(Trick::DropRequest) => {}
            Some(Trick::DropResponse) => {
                locked(answers).swallowed.insert(request.correlation);
                to_server.write_all(&frame)?;
            }
            Some(Trick::Delay(wait)) => {
                std::thread::sleep(wait);
                to_server.write_all(&frame)?;
            }
            Some(Trick::Duplicate) => {
                locked(answers).twice.insert(request.correlation, 1);
                to_server.write_all(&frame)?;
                to_server.write_all(&frame)?;
            }
            Some(Trick::HoldUntilLaterTransaction) => {
                is_held = true;
                let (server, since) = (server.try_clone()?, Instant::now());
                let held = Held { request, frame, server, since, is_due: false };
                locked(state).held.push(held);
                continue;
            }
        }
        release_into(state, &request);
    }
}

fn trick_for(state: &Mutex<State>, request: &Request) -> Option<Trick> {
    let mut state = locked(state);
    *state.seen.entry((request.client.clone(), request.api_key)).or_default() += 1;
    if state.cut_off.contains(&request.client) {
        return Some(Trick::DropRequest);
    }
    let plan = state.plans.iter_mut().find(|plan| {
        plan.times > 0 && plan.api_key == request.api_key && request.client.ends_with(&plan.client)
    })?;
    plan.times -= 1;
    let trick = plan.trick;
    if !matches!(trick, Trick::Delay(_) | Trick::RefuseFirst) {
        state.played.push(request.client.clone());
    }
    Some(trick)
}

/// Forwards what is held, when a later transaction of its transactional id has begun to write.
fn release_into(state: &Mutex<State>, request: &Request) {
    let mut state = locked(state);
    for held in &mut state.held {
        let is_later = held.since.elapsed() > Duration::from_secs(3);
        held.is_due |= is_later
            && request.api_key == wire::ADD_PARTITIONS
            && held.request.transactional == request.transactional;
    }
    let writes = |held: &Held| {
        held.is_due && request.api_key == wire::PRODUCE && held.request.client == request.client
    };
    let Some(at) = state.held.iter().position(writes) else { return };
    let Held { frame, mut server, request, .. } = state.held.swap_remove(at);
    state.late.push(request.client);
    std::thread::spawn(move || {
        std::thread::sleep(INTO_THE_NEXT);
        // The broker may have gone meanwhile.
        let _ = server.write_all(&frame);
    });
}

fn bring_answers(
    state: &Mutex<State>,
    answers: &Mutex<Answers>,
    mut server: TcpStream,
    client: &Mutex<TcpStream>,
) {
    while let Ok(Some(frame)) = wire::read_frame(&mut server) {
        let Some(correlation) = wire::correlation_of_response(&frame) else { break };
        let is_swallowed = {
            let mut answers = locked(answers);
            let is_second = match answers.twice.get_mut(&correlation) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    false
                }
                Some(_) => true,
                None => false,
            };
            is_second
                || answers.swallowed.remove(&correlation)
                || locked(state).cut_off.contains(&answers.client)
        };
        if !is_swallowed && locked(client).write_all(&frame).is_err() {
            break;
        }
    }
    // Ended already.
    let _ = locked(client).shutdown(Shutdown::Both);
}
