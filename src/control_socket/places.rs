//! The places of one listener's clients: who may be connected, and whose request is answered next.
//!
//! ```text
//!   connects        sends its head          its turn
//!   ------> Head ------------------> Waiting ------> Answering ------> gone
//! ```
//!
//! *Connections.* A client is always accepted. If all [connections](Limits::connections) are taken, it gets the place of another
//! one: of the peer with the most connections, and of these the oldest that has not sent its head, or that waits. So clients
//! that connect and stay silent, however many, cost others nothing: they make room for each other. Nobody loses a place to
//! a peer that has more of them. An answer is not cut off, unless its listener has a [patience](Limits::patience) and
//! somebody waits.
//!
//! *Answers.* As many requests are answered at a time as [`Quota`] says. Some of the places are root's alone, the rest is for
//! clients with full rights, and a part of that for others; no peer but root has more than a few.
//!
//! A *peer* is a user at a Unix socket, and an address over TCP; of IPv6 addresses a /64, which one host can have.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::listener::Limits;
use super::rights::Rights;

/// How many there may be of something at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quota {
    pub(crate) all: usize,
    /// Of these, for clients that are not root.
    pub(crate) but_root: usize,
    /// Of these, for clients with less than full rights.
    pub(crate) of_others: usize,
}

/// A client, as the kernel names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) peer: Peer,
    pub(crate) rights: Rights,
    /// Root, or the user that the daemon runs as.
    pub(crate) is_root: bool,
}

/// Whose connections are counted together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Peer {
    User(u32),
    Host(IpAddr),
}

impl Peer {
    pub(crate) fn of_address(address: IpAddr) -> Peer {
        Peer::Host(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
            address => address,
        })
    }
}

impl Client {
    /// The number of limits in [`Quota`] that it is under: root one, others all three.
    fn limits(&self) -> usize {
        if self.is_root { 1 } else { 2 + usize::from(self.rights < Rights::Everything) }
    }
}

/// The right to as many of something as [`Quota`] has for one client.
#[derive(Clone, Debug)]
pub(crate) struct Share(Vec<Arc<Semaphore>>);

impl Share {
    /// Takes one, if there is one left.
    pub(crate) fn try_take(&self) -> Option<Vec<OwnedSemaphorePermit>> {
        self.0.iter().map(|places| Arc::clone(places).try_acquire_owned().ok()).collect()
    }

    /// Takes one, and waits for it.
    pub(crate) async fn take(&self) -> Option<Vec<OwnedSemaphorePermit>> {
        let mut taken = Vec::with_capacity(self.0.len());
        for places in &self.0 {
            taken.push(Arc::clone(places).acquire_owned().await.ok()?);
        }
        Some(taken)
    }
}

/// The shares of all clients in one thing.
#[derive(Debug)]
pub(crate) struct Shares([Arc<Semaphore>; 3]);

impl Shares {
    pub(crate) fn new(places: Quota) -> Shares {
        Shares([places.all, places.but_root, places.of_others].map(|places| Arc::new(Semaphore::new(places))))
    }

    /// The narrowest limit is taken first, so that nobody who waits for it holds a place of others.
    pub(crate) fn of(&self, client: &Client) -> Share {
        Share(self.0[..client.limits()].iter().rev().cloned().collect())
    }
}

/// How long root waits for a place before the oldest of its own requests that wait gives way.
const ROOT_PATIENCE: Duration = Duration::from_secs(1);

/// All connections of a listener.
#[derive(Debug)]
pub(crate) struct Connections {
    limits: Limits,
    open: Mutex<Vec<Open>>,
    /// A connection has ended.
    left: Notify,
}

#[derive(Debug)]
struct Open {
    number: u64,
    client: Client,
    since: Instant,
    stage: Stage,
    task: Option<AbortHandle>,
}

/// In the order in which they lose their places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    Head,
    Waiting,
    Answering,
}

/// A connection's place, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    number: u64,
    connections: Arc<Connections>,
}

impl Connections {
    pub(crate) fn new(limits: Limits) -> Arc<Connections> {
        Arc::new(Connections { limits, open: Mutex::default(), left: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a client that has just connected. `None`: its own connections have all places that it can get. Root waits
    /// instead, and so does everybody where places are free again soon.
    pub(crate) async fn admit(self: &Arc<Self>, number: u64, client: Client) -> Option<OpenConnection> {
        loop {
            if self.make_room(&client, Instant::now()) {
                let open = Open { number, client, since: Instant::now(), stage: Stage::Head, task: None };
                self.lock().push(open);
                return Some(OpenConnection { number, connections: Arc::clone(self) });
            }
            let pause = self.limits.patience.or_else(|| client.is_root.then_some(ROOT_PATIENCE))?;
            let _ = tokio::time::timeout(pause, self.left.notified()).await;
        }
    }

    /// Ends another connection if all places are taken. Returns whether there is room.
    fn make_room(&self, client: &Client, now: Instant) -> bool {
        let mut open = self.lock();
        if open.len() < self.limits.connections {
            return true;
        }
        let mut counts: HashMap<Peer, usize> = HashMap::new();
        for one in open.iter() {
            *counts.entry(one.client.peer).or_default() += 1;
        }
        let count = |peer: Peer| counts.get(&peer).copied().unwrap_or(0);
        let may_go = |one: &Open| {
            let is_own = one.client.peer == client.peer;
            let is_stage = match one.stage {
                Stage::Head => true,
                // Root waits, but keeps nobody else from connecting for long.
                Stage::Waiting => !is_own || client.is_root && now >= one.since + ROOT_PATIENCE,
                Stage::Answering => self.limits.patience.is_some_and(|patience| now >= one.since + patience),
            };
            is_stage && (is_own || count(one.client.peer) > count(client.peer))
        };
        let candidates = open.iter().enumerate().filter(|(_, one)| may_go(one));
        let victim = candidates.min_by_key(|(_, one)| (usize::MAX - count(one.client.peer), one.stage, one.number));
        let Some(at) = victim.map(|(at, _)| at) else { return false };
        if let Some(task) = open.swap_remove(at).task {
            task.abort();
        }
        true
    }
}

impl OpenConnection {
    /// The task that serves the connection.
    pub(crate) fn served_by(&self, task: AbortHandle) {
        if let Some(own) = self.connections.lock().iter_mut().find(|one| one.number == self.number) {
            own.task = Some(task);
        }
    }

    /// Waits until the request of this connection may be answered.
    pub(crate) async fn turn(&self) {
        loop {
            let left = self.connections.left.notified();
            let mut left = std::pin::pin!(left);
            // Before the look: whoever leaves after it is heard of.
            left.as_mut().enable();
            if self.try_turn() {
                return;
            }
            left.await;
        }
    }

    /// A connection that has lost its place is about to end, and waits for nothing.
    fn try_turn(&self) -> bool {
        let mut open = self.connections.lock();
        let Limits { answers, answers_each, .. } = self.connections.limits;
        let Some(client) = open.iter().find(|one| one.number == self.number).map(|one| one.client) else { return true };
        let count = |is_counted: &dyn Fn(&Client) -> bool| {
            open.iter().filter(|one| one.stage == Stage::Answering && is_counted(&one.client)).count()
        };
        let is_other = |client: &Client| client.limits() > 2;
        let has_place = count(&|_| true) < answers.all
            && (client.is_root
                || count(&|one| !one.is_root) < answers.but_root && count(&|one| one.peer == client.peer) < answers_each)
            && (!is_other(&client) || count(&is_other) < answers.of_others);
        let stage = if has_place { Stage::Answering } else { Stage::Waiting };
        if let Some(own) = open.iter_mut().find(|one| one.number == self.number) {
            own.stage = stage;
        }
        has_place
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.lock().retain(|one| one.number != self.number);
        self.connections.left.notify_waiters();
        // And whoever is about to wait for a place.
        self.connections.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connections: 8,
        answers: Quota { all: 4, but_root: 3, of_others: 2 },
        answers_each: 2,
        patience: None,
        ..super::super::LIMITS
    };

    fn root() -> Client {
        Client { peer: Peer::User(0), rights: Rights::Everything, is_root: true }
    }

    fn member(user: u32) -> Client {
        Client { peer: Peer::User(user), rights: Rights::Everything, is_root: false }
    }

    fn other(user: u32) -> Client {
        Client { rights: Rights::Read, ..member(user) }
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    fn numbers(connections: &Connections) -> Vec<u64> {
        let mut numbers: Vec<u64> = connections.lock().iter().map(|one| one.number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Admits clients by these numbers.
    async fn admit(
        connections: &Arc<Connections>,
        numbers: impl IntoIterator<Item = u64>,
        client: Client,
    ) -> Vec<OpenConnection> {
        let mut places = Vec::new();
        for number in numbers {
            places.extend(connections.admit(number, client).await);
        }
        places
    }

    #[test]
    fn silent_clients_make_room_for_each_other_and_for_all() {
        wait(async {
            let connections = Connections::new(LIMITS);
            let _silent = admit(&connections, 1..=100, other(7)).await;
            assert_eq!(numbers(&connections), (93..=100).collect::<Vec<_>>(), "the oldest have gone");
            let _root = admit(&connections, [101], root()).await;
            let _one = admit(&connections, [102], other(8)).await;
            assert_eq!(numbers(&connections), (95..=102).collect::<Vec<_>>());
            let _more = admit(&connections, 103..=110, other(7)).await;
            assert!(numbers(&connections).starts_with(&[101, 102]), "nobody loses a place to whoever has more");
        });
    }

    #[test]
    fn a_peer_has_its_share_and_root_its_place() {
        wait(async {
            let connections = Connections::new(LIMITS);
            let places = admit(&connections, 1..=8, member(7)).await;
            assert_eq!(places.iter().filter(|place| place.try_turn()).count(), 2, "of each");
            assert!(connections.admit(9, member(7)).await.is_none(), "all others wait already");
            let others = admit(&connections, [10, 11], other(8)).await;
            assert_eq!(others.iter().filter(|place| place.try_turn()).count(), 1, "three but for root");
            assert_eq!(numbers(&connections), [1, 2, 5, 6, 7, 8, 10, 11], "of those that wait");
            let roots = admit(&connections, [12, 13], root()).await;
            assert!(roots[0].try_turn() && !roots[1].try_turn(), "all four");
            drop(places);
            roots[1].turn().await;
            others[1].turn().await;
        });
    }

    /// Whoever connects next waits behind root.
    #[test]
    fn root_does_not_wait_for_itself_without_end() {
        wait(async {
            let connections = Connections::new(LIMITS);
            let places = admit(&connections, 1..=8, root()).await;
            assert_eq!(places.iter().filter(|place| place.try_turn()).count(), 4);
            let _next = connections.admit(9, root()).await.expect("a place");
            assert_eq!(numbers(&connections), [1, 2, 3, 4, 6, 7, 8, 9], "the oldest that waits has gone");
        });
    }

    #[test]
    fn an_answer_that_is_not_read_goes_where_others_wait() {
        wait(async {
            let limits = Limits { connections: 2, patience: Some(Duration::from_millis(1)), ..LIMITS };
            let connections = Connections::new(limits);
            let slow = admit(&connections, [1, 2], other(7)).await;
            assert!(slow.iter().all(OpenConnection::try_turn));
            let _place = connections.admit(3, other(7)).await.expect("a place");
            assert_eq!(numbers(&connections), [2, 3]);
        });
    }

    #[test]
    fn one_host_may_have_many_addresses() {
        let peer = |text: &str| Peer::of_address(text.parse().unwrap());
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:1"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!(peer("192.0.2.1"), peer("::ffff:192.0.2.1"));
    }
}
