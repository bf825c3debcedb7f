//! `vswitchctl top`: a live screen.
//!
//! ```text
//!   reader thread --Reading--> model --View--> drawing --> terminal
//!     asks the switch                ^
//!     once a second                  keys
//!      ^ flows
//!   sampler thread
//!     a capture of one frame of N
//! ```
//!
//! Flows with rates come from a capture; if it is refused, they are the connections that the router knows. Reading and
//! drawing are separate threads, so a switch that does not answer does not block the keys. The terminal is restored
//! whatever ends the program: a key, a signal, an error or a panic.

mod draw;
mod model;
mod sampler;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Read, stdout};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use api::Connections;
use api::query::{ConnectionList, target};
use ratatui::backend::Backend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::{Color, Style};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli::Output;
use crate::get::Get;
use crate::paint;
use model::{Model, Reading, Sort, View};
use sampler::Sampler;

/// Interval between checks for new readings while no key is pressed.
const KEY_TIMEOUT: Duration = Duration::from_millis(100);

/// Maximum number of connections requested from the switch.
const MOST_CONNECTIONS: u32 = 5000;

/// The selected panel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Panel {
    #[default]
    Ports,
    Flows,
    Drops,
}

/// State of the screen that keys change.
#[derive(Debug, Default)]
struct Screen {
    panel: Panel,
    sort: Sort,
    is_reversed: bool,
    /// The frozen content while paused.
    paused: Option<View>,
    has_help: bool,
    /// Number of rows scrolled out above the first visible row.
    skipped: usize,
    /// The error of the last reading.
    trouble: Option<String>,
    has_colours: bool,
}

/// Action of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Stay,
    /// Redraw everything, because another program has written to the terminal.
    Redraw,
    Leave,
}

/// Runs the screen until the user quits.
pub(crate) fn run(socket: &Path, interval: u32) -> anyhow::Result<()> {
    if !stdout().is_terminal() {
        bail!("top needs a terminal; 'vswitchctl metrics' and '-o json' of other verbs are for programs");
    }
    // Without a running switch, the error is the same as for other commands.
    let first = read(socket, Instant::now(), None)?;
    leave_on_signals()?;
    let readings = start_reader(socket.to_owned(), Duration::from_secs(interval.into()))?;
    // From here on, the terminal is restored after a panic too.
    let mut terminal = ratatui::try_init().context("taking the terminal")?;
    let mut model = Model::default();
    let mut screen = Screen { has_colours: paint::is_wanted(), ..Screen::default() };
    model.take(first);
    let shown = show(&mut terminal, &mut model, &mut screen, &readings);
    ratatui::try_restore().context("giving the terminal back")?;
    shown
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    model: &mut Model,
    screen: &mut Screen,
    readings: &Receiver<anyhow::Result<Reading>>,
) -> anyhow::Result<()> {
    loop {
        terminal.draw(|frame| draw::draw(frame, model.view(), screen)).context("drawing")?;
        if event::poll(KEY_TIMEOUT).context("waiting for keys")?
            && let Event::Key(key) = event::read().context("reading keys")?
        {
            match screen.press(key, model.view()) {
                Wish::Stay => {}
                Wish::Redraw => {
                    // Terminal::clear would query the cursor position, and some terminals do not answer.
                    terminal.backend_mut().clear().context("drawing anew")?;
                    terminal.swap_buffers();
                }
                Wish::Leave => return Ok(()),
            }
        }
        while let Ok(reading) = readings.try_recv() {
            screen.trouble = reading.as_ref().err().map(|error| format!("{error:#}"));
            reading.into_iter().for_each(|reading| model.take(reading));
        }
    }
}

/// Signals are handled in a separate thread, because waiting for keys of a closed terminal may block forever.
fn leave_on_signals() -> anyhow::Result<()> {
    let (mut heard, told) = UnixStream::pair().context("listening for signals")?;
    for signal in [SIGTERM, SIGHUP, SIGINT] {
        let told = told.try_clone().context("listening for signals")?;
        signal_hook::low_level::pipe::register(signal, told).context("listening for signals")?;
    }
    let leave = move || {
        if heard.read_exact(&mut [0]).is_ok() {
            // Exit even if the terminal is gone.
            let _ = ratatui::try_restore();
            exit(0);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(leave).context("listening for signals").map(drop)
}

impl Screen {
    /// A colour, if colours are wanted.
    fn colour(&self, colour: Color) -> Style {
        if self.has_colours { Style::from(colour) } else { Style::new() }
    }

    fn press(&mut self, key: KeyEvent, view: &View) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::Stay;
        }
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Wish::Leave,
            KeyCode::Char('l') if key.modifiers.contains(KeyModifiers::CONTROL) => return Wish::Redraw,
            KeyCode::Char('q') => return Wish::Leave,
            KeyCode::Esc if self.has_help => self.has_help = false,
            KeyCode::Char('?') => self.has_help = !self.has_help,
            KeyCode::Char('p') => self.paused = if self.paused.is_some() { None } else { Some(view.clone()) },
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Tab => self.turn_to(match self.panel {
                Panel::Ports => Panel::Flows,
                Panel::Flows => Panel::Drops,
                Panel::Drops => Panel::Ports,
            }),
            KeyCode::BackTab => self.turn_to(match self.panel {
                Panel::Ports => Panel::Drops,
                Panel::Flows => Panel::Ports,
                Panel::Drops => Panel::Flows,
            }),
            KeyCode::Down => {
                let view = self.paused.as_ref().unwrap_or(view);
                let rows = [view.ports.len(), view.flows.len(), view.drops.len()][self.panel as usize];
                self.skipped = (self.skipped + 1).min(rows.saturating_sub(1));
            }
            KeyCode::Up => self.skipped = self.skipped.saturating_sub(1),
            _ => {}
        }
        Wish::Stay
    }

    fn turn_to(&mut self, panel: Panel) {
        (self.panel, self.skipped) = (panel, 0);
    }
}

/// Reads the switch's state until the receiver is dropped.
fn start_reader(socket: PathBuf, interval: Duration) -> anyhow::Result<Receiver<anyhow::Result<Reading>>> {
    let (readings, received) = sync_channel(1);
    let (began, sampler) = (Instant::now(), Sampler::start(socket.clone())?);
    let ask = move || read_on(&socket, interval, began, &sampler, &readings);
    thread::Builder::new().name("reader".to_owned()).spawn(ask).context("starting the reader")?;
    Ok(received)
}

fn read_on(socket: &Path, interval: Duration, began: Instant, sampler: &Sampler, readings: &SyncSender<anyhow::Result<Reading>>) {
    loop {
        thread::sleep(interval);
        if readings.send(read(socket, began, Some(sampler))).is_err() {
            return;
        }
    }
}

fn read(socket: &Path, began: Instant, sampler: Option<&Sampler>) -> anyhow::Result<Reading> {
    let get = Get { socket, output: Output::Json };
    let show = get.view("/v1/show")?;
    let stats: api::Stats = get.view("/v1/stats")?;
    let at = began.elapsed();
    let sampled = sampler.map_or_else(|| Err(String::new()), Sampler::take);
    let connections = match &stats.nat {
        Some(_) if sampled.is_err() => {
            let list = ConnectionList { limit: Some(MOST_CONNECTIONS), ..ConnectionList::default() };
            get.view::<Connections>(&target("/v1/conntrack", &list)?)?.connections
        }
        _ => Vec::new(),
    };
    Ok(Reading { at, show, stats, connections, sampled })
}
