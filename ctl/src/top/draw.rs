//! The screen: a head of two lines, the ports, below them flows and drops, and a line with the keys. If there is no room
//! for all three panels, only the selected one is shown.
//!
//! ```text
//!   120 columns or more               80 columns, 24 lines        fewer than 60 columns or 16 lines
//!   +---------------------------+     +-------------------+       +------------------+
//!   | head                      |     | head              |       | head             |
//!   | ports                     |     | ports             |       | ports, or flows, |
//!   | flows             | drops |     | flows             |       | or drops         |
//!   | keys                      |     | drops             |       | keys             |
//!   +---------------------------+     | keys              |       +------------------+
//!                                     +-------------------+
//! ```
//!
//! *Nothing is cut without a sign.* A text that does not fit keeps its end behind `..`, because paths and ports differ there; the
//! title of a panel with more rows than lines says which of them are shown.
//!
//! *Colours* mark states, drops and problems, and only repeat what the text says. [`Screen::has_colours`] turns them off.

use api::{Latency, State};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table, Widget};

use super::model::{By, DropRow, FlowRow, HISTORY, PortRow, Sort, View};
use super::{Panel, Screen};
use crate::print::{duration, short_time};
use crate::table::plain;

/// Minimum columns and lines for all three panels.
const LEAST: (u16, u16) = (60, 16);

/// Minimum columns for flows beside drops: a flow of two IPv4 endpoints and its numbers take 62.
const BESIDE: u16 = 120;

/// Lines of a panel besides its rows: title and headings.
const PANEL_HEAD: u16 = 2;

/// Bars in eighths of a cell.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

const HELP: [&str; 9] = [
    "q, ctrl-c  leave",
    "p          pause, and go on",
    "s          sort ports by the next column",
    "r          reverse that order",
    "tab        the next panel",
    "up, down   rows of this panel",
    "?, esc     this help, and away with it",
    "",
    "rates are a second's; b are bits, f frames",
];

pub(super) fn draw(frame: &mut Frame<'_>, view: &View, screen: &Screen) {
    let view = screen.paused.as_ref().unwrap_or(view);
    let area = frame.area();
    let [head, body, keys] = Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)]).areas(area);
    frame.render_widget(head_of(view, screen), head);
    let mut panel = |panel: Panel, at: Rect| match panel {
        Panel::Ports => frame.render_widget(ports(view, screen, at), at),
        Panel::Flows => frame.render_widget(flows(view, screen, at), at),
        Panel::Drops => frame.render_widget(drops(&view.drops, screen, at), at),
    };
    if area.width < LEAST.0 || area.height < LEAST.1 {
        panel(screen.panel, body);
    } else {
        let [above, flows, drops] = panels(view, body);
        panel(Panel::Ports, above);
        panel(Panel::Flows, flows);
        panel(Panel::Drops, drops);
    }
    frame.render_widget(Line::from("? help  q quit  p pause  s sort  r reverse  tab panel").style(Modifier::DIM), keys);
    if screen.has_help {
        help(frame, area);
    }
}

/// Places of the three panels. Ports and drops get no more than they need, and flows the rest.
fn panels(view: &View, body: Rect) -> [Rect; 3] {
    let wanted = |rows: usize| u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(PANEL_HEAD);
    if body.width >= BESIDE {
        let ports = wanted(view.ports.len()).max(5).min(body.height / 3 * 2);
        let [above, below] = Layout::vertical([Constraint::Length(ports), Constraint::Fill(1)]).areas(body);
        let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Max(56)]).spacing(2).areas(below);
        return [above, left, right];
    }
    let ports = wanted(view.ports.len()).max(4).min(body.height / 2);
    let drops = wanted(view.drops.len()).max(4).min(body.height / 4);
    Layout::vertical([Constraint::Length(ports), Constraint::Fill(1), Constraint::Length(drops)]).areas(body)
}

fn head_of(view: &View, screen: &Screen) -> Paragraph<'static> {
    let workers = format!("{} worker{}", view.workers, if view.workers == 1 { "" } else { "s" });
    let about = format!("{}, up {}, {workers}", plain(&view.title), duration(view.uptime));
    let health = match (&screen.trouble, view.problems.as_slice()) {
        (Some(trouble), _) => Some(plain(trouble)),
        (None, []) => None,
        (None, [one]) => Some(plain(one)),
        (None, [first, others @ ..]) => Some(format!("{} (and {} more)", plain(first), others.len())),
    };
    let bold = Style::from(Modifier::BOLD);
    let mut second = Vec::new();
    if screen.paused.is_some() {
        second.push(Span::styled("PAUSED ", Modifier::REVERSED));
    }
    match health {
        Some(health) => second.push(Span::styled(health, bold.patch(screen.colour(Color::Red)))),
        None => {
            second.push(Span::styled("good", screen.colour(Color::Green)));
            second.push(Span::raw(format!("   {}", pipeline(&view.latency))));
        }
    }
    Paragraph::new(vec![Line::styled(about, bold), Line::from(second)])
}

fn pipeline(latency: &Latency) -> String {
    let Latency { samples, p50_ns, p99_ns, p999_ns, max_ns } = *latency;
    if samples == 0 {
        return "pipeline: no batch yet".to_owned();
    }
    let [p50, p99, p999, max] = [p50_ns, p99_ns, p999_ns, max_ns].map(short_time);
    format!("pipeline: p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")
}

/// The frame of a panel with its title; the selected panel is marked.
fn block(title: String, is_chosen: bool) -> Block<'static> {
    let style = if is_chosen { Style::from(Modifier::BOLD) } else { Style::from(Modifier::DIM) };
    let mark = if is_chosen { ">" } else { " " };
    Block::new().borders(Borders::TOP).title(Span::styled(format!("{mark}{title} "), style))
}

/// How many rows a panel has; which of them are shown, if not all are.
fn count(rows: usize, skipped: usize, area: Rect) -> String {
    let room = usize::from(area.height.saturating_sub(PANEL_HEAD));
    match (skipped + 1, (skipped + room).min(rows)) {
        (1, last) if last == rows => rows.to_string(),
        (first, last) if first > last => format!("none of {rows}"),
        (first, last) => format!("{first}-{last} of {rows}"),
    }
}

fn skipped(screen: &Screen, panel: Panel) -> usize {
    if screen.panel == panel { screen.skipped } else { 0 }
}

/// The columns of ports for which there is room.
struct Columns {
    name: usize,
    has_state: bool,
    has_frames: bool,
    /// Width of what a port is; 0 without.
    about: usize,
    /// Width of the graph; 0 without.
    graph: usize,
}

impl Columns {
    /// Name, both directions and drops are always there; then state and graph; then frames; then what the port is. Texts are as wide
    /// as the longest, and the graph has the rest.
    fn new(width: u16, longest_name: usize, longest_about: usize) -> Columns {
        let width = usize::from(width);
        let has_state = width >= 48;
        let has_frames = width >= 76;
        let numbers = if has_frames { 5 } else { 3 };
        let fixed = numbers * (usize::from(NUMBER) + 1) + if has_state { usize::from(STATE) + 1 } else { 0 };
        let left = width.saturating_sub(fixed);
        let graph = if left > LEAST_NAME + LEAST_GRAPH { LEAST_GRAPH + 1 } else { 0 };
        let name = longest_name.clamp(LEAST_NAME, left.saturating_sub(graph).max(LEAST_NAME));
        let left = left.saturating_sub(name + 1);
        let about = if width >= usize::from(BESIDE) { longest_about.min(left / 2) } else { 0 };
        let left = left.saturating_sub(if about == 0 { 0 } else { about + 1 });
        let graph = if graph == 0 { 0 } else { left.min(HISTORY) };
        Columns { name, has_state, has_frames, about, graph }
    }
}

fn ports(view: &View, screen: &Screen, area: Rect) -> impl Widget {
    let sorted = view.sorted(screen.sort, screen.is_reversed);
    let names: Vec<String> = sorted.iter().map(|port| plain(&port.name)).collect();
    let longest = |texts: &mut dyn Iterator<Item = &String>| texts.map(|text| text.chars().count()).max().unwrap_or(0);
    let about = longest(&mut view.ports.iter().map(|port| &port.about));
    let columns = Columns::new(area.width, longest(&mut names.iter()), about);
    let skipped = skipped(screen, Panel::Ports);
    let rows = sorted.iter().zip(&names).skip(skipped).map(|(port, name)| port_row(port, name, &columns, screen));
    let rows: Vec<Row<'static>> = rows.collect();
    let mut headings = vec![(Some(Sort::Port), "port", columns.name as u16)];
    if columns.has_state {
        headings.push((None, "state", STATE));
    }
    if columns.about > 0 {
        headings.push((None, "port is", columns.about as u16));
    }
    headings.extend([(Some(Sort::Receive), "rx b/s", NUMBER), (Some(Sort::Transmit), "tx b/s", NUMBER)]);
    if columns.has_frames {
        headings.extend([(None, "rx f/s", NUMBER), (None, "tx f/s", NUMBER)]);
    }
    headings.push((Some(Sort::Drops), "drops/s", NUMBER));
    if columns.graph > 0 {
        headings.push((None, "both ways", columns.graph as u16));
    }
    let heading = |(sort, heading, _): &(Option<Sort>, &'static str, u16)| {
        let style = if *sort == Some(screen.sort) { Modifier::REVERSED } else { Modifier::BOLD };
        let line = Line::from(*heading);
        let line = if heading.ends_with("/s") { line.right_aligned() } else { line };
        Cell::new(line.style(style))
    };
    let header: Row<'static> = headings.iter().map(heading).collect();
    let widths = headings.iter().map(|(_, _, width)| Constraint::Length(*width));
    let title = format!("ports ({})", count(view.ports.len(), skipped, area));
    Table::new(rows, widths).header(header).block(block(title, screen.panel == Panel::Ports))
}

fn port_row(port: &PortRow, name: &str, columns: &Columns, screen: &Screen) -> Row<'static> {
    let mut cells = vec![Cell::new(shortened(name, columns.name))];
    if columns.has_state {
        let state = port.state.map_or("-", State::name);
        let colour = match port.state {
            Some(State::Up) => screen.colour(Color::Green),
            Some(State::Down | State::Gone) => screen.colour(Color::Red),
            Some(State::Waiting) => screen.colour(Color::Yellow),
            None => Style::new(),
        };
        cells.push(Cell::new(Span::styled(state, colour)));
    }
    if columns.about > 0 {
        cells.push(Cell::new(shortened(&plain(&port.about), columns.about)));
    }
    cells.extend([number(port.rx_bits), number(port.tx_bits)]);
    if columns.has_frames {
        cells.extend([number(port.rx_frames), number(port.tx_frames)]);
    }
    let drops = if port.drops > 0.0 { screen.colour(Color::Red) } else { Style::new() };
    cells.push(number(port.drops).style(drops));
    if columns.graph > 0 {
        cells.push(Cell::new(line_of(&port.history, columns.graph.min(port.history.len()))).style(screen.colour(Color::Cyan)));
    }
    let is_bad = matches!(port.state, Some(State::Down | State::Gone));
    Row::new(cells).style(if is_bad { Modifier::DIM } else { Modifier::empty() })
}

/// Width of a column of numbers, in characters.
const NUMBER: u16 = 8;
/// Width of the state: its longest word.
const STATE: u16 = 7;
const LEAST_NAME: usize = 8;
const LEAST_GRAPH: usize = 9;

fn flows(view: &View, screen: &Screen, area: Rect) -> impl Widget {
    let skipped = skipped(screen, Panel::Flows);
    let count = count(view.flows.len(), skipped, area);
    let (title, numbers) = match &view.flows_by {
        By::Sample(1) => (format!("flows ({count})"), ["b/s", "f/s"]),
        By::Sample(sample) => (format!("flows ({count}), by 1 frame of {sample}"), ["b/s", "f/s"]),
        By::Connections(why) if why.is_empty() => (format!("flows of NAT ({count})"), ["active", "all"]),
        By::Connections(why) => (format!("flows of NAT ({count}), no capture: {}", plain(why)), ["active", "all"]),
    };
    let widths = [Constraint::Length(PROTOCOL), Constraint::Fill(1), Constraint::Length(6), Constraint::Length(6)];
    let room = usize::from(area.width.saturating_sub(PROTOCOL + 6 + 6 + 3));
    let row = |flow: &FlowRow| {
        let [first, second] = match &view.flows_by {
            By::Sample(_) => [flow.bits, flow.frames].map(short),
            By::Connections(_) => [flow.active, flow.connections].map(|count| count.to_string()),
        }
        .map(|number| Cell::new(Line::from(number).right_aligned()));
        Row::new([Cell::new(plain(&flow.protocol)), Cell::new(ends(flow, room)), first, second])
    };
    let rows: Vec<Row<'static>> = view.flows.iter().skip(skipped).map(row).collect();
    let heading = |text| Line::styled(text, Modifier::BOLD);
    let numbers = numbers.map(|text| heading(text).right_aligned());
    let headings = [heading("flow"), heading("")].into_iter().chain(numbers).map(Cell::new);
    Table::new(rows, widths).header(headings.collect::<Row<'static>>()).block(block(title, screen.panel == Panel::Flows))
}

/// Width of a flow's protocol: `icmp6`.
const PROTOCOL: u16 = 5;

/// The endpoints of a flow. If they do not fit, each keeps its end, where the port is.
fn ends(flow: &FlowRow, room: usize) -> String {
    let (from, to) = (plain(&flow.from), plain(&flow.to));
    if to.is_empty() {
        return shortened(&from, room);
    }
    const ARROW: &str = " > ";
    let room = room.saturating_sub(ARROW.len());
    let [long_from, long_to] = [&from, &to].map(|end| end.chars().count());
    let half = room / 2;
    let (of_from, of_to) = match () {
        () if long_from + long_to <= room => (long_from, long_to),
        () if long_from <= half => (long_from, room - long_from),
        () if long_to <= half => (room - long_to, long_to),
        () => (half, room - half),
    };
    format!("{}{ARROW}{}", shortened(&from, of_from), shortened(&to, of_to))
}

fn drops(drops: &[DropRow], screen: &Screen, area: Rect) -> impl Widget {
    let skipped = skipped(screen, Panel::Drops);
    let room = usize::from(area.width.saturating_sub(8 + 6 + 2));
    let row = |drop: &DropRow| {
        let row = Row::new([Cell::new(shortened(&plain(&drop.reason), room)), number(drop.rate), number(drop.total as f64)]);
        row.style(if drop.rate > 0.0 { screen.colour(Color::Red) } else { Style::new() })
    };
    let rows: Vec<Row<'static>> = drops.iter().skip(skipped).map(row).collect();
    let headings = [Line::from("reason"), Line::from("a second").right_aligned(), Line::from("all").right_aligned()];
    let headings = headings.map(|heading| Cell::new(heading.style(Modifier::BOLD)));
    let widths = [Constraint::Fill(1), Constraint::Length(8), Constraint::Length(6)];
    let title = format!("drops ({})", count(drops.len(), skipped, area));
    Table::new(rows, widths).header(Row::new(headings)).block(block(title, screen.panel == Panel::Drops))
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let width = 46.min(area.width);
    let height = (HELP.len() as u16 + 2).min(area.height);
    let at = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, at);
    let lines: Vec<Line<'_>> = HELP.into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), at);
}

fn number(value: f64) -> Cell<'static> {
    Cell::new(Line::from(short(value)).right_aligned())
}

/// A number in short form: `0`, `0.4`, `950`, `1.2k`, `35M`, `9.4G`.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        ..0.05 => return "0".to_owned(),
        ..999.5 => (value, ""),
        ..999.5e3 => (value / 1e3, "k"),
        ..999.5e6 => (value / 1e6, "M"),
        ..999.5e9 => (value / 1e9, "G"),
        _ => (value / 1e12, "T"),
    };
    if value < 9.95 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// A bar for each of the last values, scaled to the greatest of them.
fn line_of(history: &[u64], width: usize) -> String {
    let last = &history[history.len().saturating_sub(width)..];
    let most = last.iter().copied().max().unwrap_or(0).max(1);
    let bar = |value: &u64| match value {
        0 => ' ',
        value => BARS[(u128::from(*value) * (BARS.len() as u128 - 1) / u128::from(most)) as usize],
    };
    format!("{:>width$}", last.iter().map(bar).collect::<String>())
}

/// A text shortened at its start, because paths differ at their ends.
fn shortened(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    if width < 3 {
        return ".".repeat(width);
    }
    let kept: String = text.chars().skip(count - width.saturating_sub(2)).collect();
    format!("..{kept}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let values = [0.0, 0.04, 0.4, 9.94, 9.96, 950.0, 999.6, 1234.0, 35e6, 9.4e9, 2e12];
        assert_eq!(values.map(short), ["0", "0", "0.4", "9.9", "10", "950", "1.0k", "1.2k", "35M", "9.4G", "2.0T"]);
    }

    #[test]
    fn a_line_ends_with_the_last() {
        assert_eq!(line_of(&[0, 1, 7, 8], 6), "   ▁▇█");
        assert_eq!(line_of(&[], 3), "   ");
        assert_eq!(line_of(&[u64::MAX, 5, 5], 2), "██");
    }

    #[test]
    fn flows_keep_their_ports() {
        let flow = |from: &str, to: &str| FlowRow { from: from.to_owned(), to: to.to_owned(), ..FlowRow::default() };
        let v4 = flow("10.77.0.11:48804", "198.51.100.7:8081");
        assert_eq!(ends(&v4, 36), "10.77.0.11:48804 > 198.51.100.7:8081");
        assert_eq!(ends(&v4, 30), "...0.11:48804 > ..1.100.7:8081");
        let v6 = flow("[2001:db8:1111:2222:3333:4444:5555:6666]:40000", "[fd00::2]:8081");
        assert_eq!(ends(&v6, 50), "..2222:3333:4444:5555:6666]:40000 > [fd00::2]:8081");
        for room in 3..70 {
            assert!(ends(&v6, room).chars().count() <= room.max(3), "{room}");
        }
    }

    #[test]
    fn names_keep_their_end() {
        assert_eq!([shortened("/run/guests#12", 8), shortened("tap0", 8)], ["..sts#12", "tap0"]);
    }
}
