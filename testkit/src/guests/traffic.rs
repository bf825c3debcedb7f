//! What guests do: transfers over TCP, and pings.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, tcp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress, IpEndpoint};

use super::{GuestId, Network};
use crate::frames::noise;

/// Size of each TCP send and receive buffer in bytes.
const BUFFER_LEN: usize = 65_535;

/// Simulated time within which a transfer or a ping must be over.
const LIMIT: Duration = Duration::from_secs(120);

/// Identifier of the echo requests.
const PING_ID: u16 = 0x22b;

/// A TCP connection on which the client sends a request, the server then a response, and both close.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Guest that connects.
    pub client: GuestId,
    /// Address that the client connects to.
    pub to: SocketAddrV4,
    /// Guest that accepts the connection.
    pub server: GuestId,
    /// Port on which the server listens.
    pub port: u16,
    /// Length of the request in bytes.
    pub request: usize,
    /// Length of the response in bytes.
    pub response: usize,
}

/// What arrived at the end of a [`Transfer`], whose bytes were compared with those sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Address of the client as the server sees it.
    pub client: SocketAddrV4,
    /// Time from the first segment until the response had arrived.
    pub time: Duration,
}

impl Network {
    /// Runs transfers side by side, each to a port of its own. Wires have no faults while connections close, since
    /// smoltcp does not always repeat a FIN that is lost.
    ///
    /// Panics if one is not over within two minutes of simulated time, or if other bytes arrive than were sent.
    #[track_caller]
    pub fn transfer(&mut self, transfers: &[Transfer]) -> Vec<Received> {
        let begin = self.now();
        let mut running: Vec<Running> = transfers.iter().enumerate().map(|(n, transfer)| self.begin(n, *transfer)).collect();
        let mut done = self.run_for(LIMIT, |network| {
            let now = network.now() - begin;
            let unfinished = running.iter_mut().filter_map(|transfer| (!network.advance(transfer, now)).then_some(()));
            unfinished.count() == 0
        });
        let faults = std::mem::take(&mut self.faults);
        done = done && self.run_for(LIMIT, |network| running.iter().filter(|run| !network.close(run)).count() == 0);
        self.faults = faults;
        assert!(done, "not over after {LIMIT:?} of simulated time: {:#?}", self.states(&running));
        running.into_iter().map(|transfer| self.end(&transfer)).collect()
    }

    /// Sends an echo request with `len` bytes of data. Returns whether the same bytes came back from that address.
    ///
    /// Panics if nothing comes back within two minutes of simulated time.
    #[track_caller]
    pub fn ping(&mut self, from: GuestId, to: Ipv4Addr, len: usize) -> bool {
        let (handle, request) = self.send_ping(from, to, len);
        let mut reply = None;
        self.run_until(LIMIT, |network| {
            if let Ok((bytes, sender)) = network.guests[from.0].1.socket::<icmp::Socket<'_>>(handle).recv() {
                reply = Some((bytes.to_vec(), sender));
            }
            reply.is_some()
        });
        self.guests[from.0].1.close(handle);
        // Type 0 and another checksum; the rest is the request's.
        reply.is_some_and(|(reply, sender)| sender == IpAddress::Ipv4(to) && reply[..2] == [0, 0] && reply[4..] == request[4..])
    }

    /// Sends an echo request without waiting for a reply. Returns the socket and the message.
    pub fn send_ping(&mut self, from: GuestId, to: Ipv4Addr, len: usize) -> (SocketHandle, Vec<u8>) {
        let data = noise(len as u64, len);
        let message = Icmpv4Repr::EchoRequest { ident: PING_ID, seq_no: 1, data: &data };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; BUFFER_LEN]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(PING_ID)).expect("a new socket");
        socket.send_slice(&bytes, IpAddress::Ipv4(to)).expect("an empty queue");
        (self.guests[from.0].1.open(socket), bytes)
    }

    /// For each end of each transfer its state, and bytes sent and received.
    fn states(&mut self, running: &[Running]) -> Vec<[(tcp::State, usize, usize); 2]> {
        let mut state = |guest: GuestId, end: &End| {
            let socket = self.guests[guest.0].1.socket::<tcp::Socket<'_>>(end.handle);
            (socket.state(), end.sent, end.received.len())
        };
        let ends = |run: &Running| [state(run.transfer.client, &run.client), state(run.transfer.server, &run.server)];
        running.iter().map(ends).collect()
    }

    fn begin(&mut self, number: usize, transfer: Transfer) -> Running {
        let server = self.guests[transfer.server.0].1.open(socket());
        let listening = self.guests[transfer.server.0].1.socket::<tcp::Socket<'_>>(server);
        listening.listen(transfer.port).expect("a new socket");
        let stack = &mut self.guests[transfer.client.0].1;
        let client = stack.open(socket());
        stack.connect(client, transfer.to, 49_152 + number as u16);
        let seed = 2 * number as u64;
        Running {
            transfer,
            client: End::new(client, noise(seed, transfer.request)),
            server: End::new(server, noise(seed + 1, transfer.response)),
            peer: None,
            time: None,
        }
    }

    /// Moves bytes between one transfer and its sockets. Returns whether all have arrived.
    fn advance(&mut self, running: &mut Running, now: Duration) -> bool {
        let Transfer { client, server, request, response, .. } = running.transfer;
        let socket = self.guests[client.0].1.socket::<tcp::Socket<'_>>(running.client.handle);
        running.client.advance(socket, true);
        let socket = self.guests[server.0].1.socket::<tcp::Socket<'_>>(running.server.handle);
        if let Some(IpEndpoint { addr: IpAddress::Ipv4(address), port }) = socket.remote_endpoint() {
            running.peer = Some(SocketAddrV4::new(address, port));
        }
        running.server.advance(socket, running.server.received.len() >= request);
        let is_over = running.server.received.len() >= request && running.client.received.len() >= response;
        if is_over {
            running.time.get_or_insert(now);
        }
        is_over
    }

    /// Closes the client's end and then the server's. Returns whether both are closed.
    fn close(&mut self, running: &Running) -> bool {
        let client = self.guests[running.transfer.client.0].1.socket::<tcp::Socket<'_>>(running.client.handle);
        client.close();
        let is_closed = matches!(client.state(), tcp::State::TimeWait | tcp::State::Closed);
        let server = self.guests[running.transfer.server.0].1.socket::<tcp::Socket<'_>>(running.server.handle);
        if server.state() == tcp::State::CloseWait {
            server.close();
        }
        is_closed && server.state() == tcp::State::Closed
    }

    #[track_caller]
    fn end(&mut self, running: &Running) -> Received {
        self.guests[running.transfer.client.0].1.close(running.client.handle);
        self.guests[running.transfer.server.0].1.close(running.server.handle);
        assert!(running.server.received == running.client.data, "the request differs");
        assert!(running.client.received == running.server.data, "the response differs");
        Received { client: running.peer.expect("a client"), time: running.time.expect("the end") }
    }
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_LEN]);
    tcp::Socket::new(buffer(), buffer())
}

struct Running {
    transfer: Transfer,
    client: End,
    server: End,
    peer: Option<SocketAddrV4>,
    time: Option<Duration>,
}

/// One end of a connection.
struct End {
    handle: SocketHandle,
    data: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
}

impl End {
    fn new(handle: SocketHandle, data: Vec<u8>) -> End {
        End { handle, data, sent: 0, received: Vec::new() }
    }

    /// Reads what has arrived, and sends what there is room for if `may_send`.
    fn advance(&mut self, socket: &mut tcp::Socket<'static>, may_send: bool) {
        while socket.can_recv() {
            let read = socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap_or_default();
            self.received.extend(read);
        }
        if may_send && socket.can_send() {
            self.sent += socket.send_slice(&self.data[self.sent..]).unwrap_or(0);
        }
    }
}
