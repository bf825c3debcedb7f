//! The state of many TAPs at once: one request for each namespace, instead of one for each device.
//!
//! A device is known by its namespace and index. One that is not found there has been moved or deleted, and is asked for by its
//! descriptor, which knows.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::{LinkState, Queue, Tap};
use crate::link::{self, Link};
use crate::netns::{self, Netns, NetnsId};

/// What is needed to look at a TAP, on any thread.
#[derive(Clone, Debug)]
pub struct Watched {
    queue: Queue,
    index: u32,
    pinned: Option<(Netns, NetnsId)>,
}

/// What was seen of a device.
#[derive(Debug)]
pub struct Seen {
    /// The state of its link; `None` if it is gone. An error is temporary.
    pub link: io::Result<Option<LinkState>>,
    /// Packets that it sent and that the kernel dropped, if that is known.
    pub dropped: Option<u64>,
}

impl Tap {
    /// What is needed to look at it without it.
    #[must_use]
    pub fn watched(&self) -> Option<Watched> {
        let queue = self.queues.first()?.clone();
        Some(Watched { queue, index: self.index, pinned: self.pinned.clone() })
    }
}

/// The namespace behind a name now, and its links.
type Visited = Result<Option<(NetnsId, HashMap<u32, Link>)>, io::ErrorKind>;

/// Looks at these devices, in this order.
pub fn visit<'w>(watched: impl Iterator<Item = &'w Watched>) -> Vec<Seen> {
    let mut here: Option<HashMap<u32, Link>> = None;
    let mut places: HashMap<&Netns, Visited> = HashMap::new();
    let look = |one: &'w Watched| {
        let Some((netns, id)) = &one.pinned else {
            return one.seen_in(here.get_or_insert_with(|| links_here().unwrap_or_default()));
        };
        match places.entry(netns).or_insert_with(|| place(netns)) {
            Ok(Some((now, links))) if now == id => one.seen_in(links),
            Ok(_) if one.queue.is_outside(*id) => one.seen_in(&HashMap::new()),
            Ok(_) => Seen { link: Ok(None), dropped: None },
            Err(kind) => Seen { link: Err((*kind).into()), dropped: None },
        }
    };
    watched.map(look).collect()
}

/// The links of the calling thread's namespace by their indices.
fn links_here() -> io::Result<HashMap<u32, Link>> {
    Ok(link::list()?.into_iter().map(|link| (link.index, link)).collect())
}

fn place(netns: &Netns) -> Visited {
    let look = |namespace: File| {
        let id = NetnsId::of(&namespace)?;
        let links = if id == NetnsId::own()? { links_here() } else { netns::inside(namespace.as_fd(), links_here) };
        // Without the list, each device is asked for.
        Ok((id, links.unwrap_or_default()))
    };
    match netns.open().and_then(look) {
        Ok(place) => Ok(Some(place)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.kind()),
    }
}

impl Watched {
    fn seen_in(&self, links: &HashMap<u32, Link>) -> Seen {
        if let Some(link) = links.get(&self.index) {
            let state = LinkState { name: link.name.clone(), up: link.up, mtu: link.mtu };
            return Seen { link: Ok(Some(state)), dropped: Some(link.tx_dropped) };
        }
        match self.queue.link() {
            Ok(Some(link)) => {
                let dropped = Some(link.tx_dropped);
                Seen { link: Ok(Some(LinkState { name: link.name, up: link.up, mtu: link.mtu })), dropped }
            }
            Ok(None) => Seen { link: Ok(None), dropped: None },
            Err(error) => Seen { link: Err(error), dropped: None },
        }
    }
}
