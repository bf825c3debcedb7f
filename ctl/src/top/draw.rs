//! The screen: a head of two lines, the ports, below them flows and drops, and a line with the keys. If there is no room
//! for all three panels, only the selected one is shown.
//!
//! ```text
//!   80 columns, 24 lines                     fewer than 60 columns or 16 lines
//!   +--------------------------------+       +------------------+
//!   | head                           |       | head             |
//!   | ports                          |       | ports, or flows, |
//!   | flows              | drops     |       | or drops         |
//!   | keys                           |       | keys             |
//!   +--------------------------------+       +------------------+
//! ```

use api::{Latency, State};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table, Widget};

use super::model::{By, DropRow, FlowRow, PortRow, Sort, View};
use super::{Panel, Screen};
use crate::print::{duration, short_time};
use crate::table::plain;

/// Minimum columns and lines for all three panels.
const LEAST: (u16, u16) = (60, 16);

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
        Panel::Flows => frame.render_widget(flows(view, screen), at),
        Panel::Drops => frame.render_widget(drops(&view.drops, screen), at),
    };
    if area.width < LEAST.0 || area.height < LEAST.1 {
        panel(screen.panel, body);
    } else {
        let wanted = u16::try_from(view.ports.len()).unwrap_or(u16::MAX).saturating_add(2);
        // No more than it needs, so that the others get the rest, and no more than two thirds.
        let [above, below] =
            Layout::vertical([Constraint::Length(wanted.clamp(5, body.height / 3 * 2)), Constraint::Fill(1)]).areas(body);
        let [left, right] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).spacing(1).areas(below);
        panel(Panel::Ports, above);
        panel(Panel::Flows, left);
        panel(Panel::Drops, right);
    }
    frame.render_widget(Line::from("? help  q quit  p pause  s sort  r reverse  tab panel").style(Modifier::DIM), keys);
    if screen.has_help {
        help(frame, area);
    }
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
        Some(health) => second.push(Span::styled(health, bold)),
        None => second.push(Span::raw(pipeline(&view.latency))),
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

fn skipped(screen: &Screen, panel: Panel) -> usize {
    if screen.panel == panel { screen.skipped } else { 0 }
}

fn ports(view: &View, screen: &Screen, area: Rect) -> impl Widget {
    let rows = view.sorted(screen.sort, screen.is_reversed);
    // In a narrow panel: name, both directions, drops, and further columns if there is room.
    let (has_frames, has_line) = (area.width >= 70, area.width >= 56);
    let row = |port: &&PortRow| {
        let name = shortened(&plain(&port.name), name_width(area.width, has_frames, has_line));
        let mut cells = vec![Cell::new(name), number(port.rx_bits), number(port.tx_bits)];
        if has_frames {
            cells.extend([number(port.rx_frames), number(port.tx_frames)]);
        }
        cells.push(number(port.drops));
        if has_line {
            cells.push(Cell::new(line_of(&port.history, LINE)));
        }
        let is_bad = matches!(port.state, Some(State::Down | State::Gone));
        Row::new(cells).style(if is_bad { Modifier::DIM } else { Modifier::empty() })
    };
    let rows: Vec<Row<'static>> = rows.iter().skip(skipped(screen, Panel::Ports)).map(row).collect();
    let mut columns = vec![(Sort::Port, "port"), (Sort::Receive, "rx b/s"), (Sort::Transmit, "tx b/s")];
    let name_width = name_width(area.width, has_frames, has_line) as u16;
    let mut widths = vec![Constraint::Length(name_width), Constraint::Length(NUMBER), Constraint::Length(NUMBER)];
    let mut headings: Vec<Cell<'static>> = Vec::new();
    if has_frames {
        columns.extend([(Sort::Port, "rx f/s"), (Sort::Port, "tx f/s")]);
        widths.extend([Constraint::Length(NUMBER); 2]);
    }
    columns.push((Sort::Drops, "drops/s"));
    widths.push(Constraint::Length(NUMBER));
    for (at, (sort, heading)) in columns.into_iter().enumerate() {
        let is_sorted = screen.sort == sort && (sort != Sort::Port || at == 0);
        let style = if is_sorted { Modifier::REVERSED } else { Modifier::BOLD };
        let text = if at == 0 { Line::from(heading) } else { Line::from(heading).right_aligned() };
        headings.push(Cell::new(text.style(style)));
    }
    if has_line {
        widths.push(Constraint::Length(LINE as u16));
        headings.push(Cell::new(Line::styled("both ways", Modifier::BOLD)));
    }
    let title = format!("ports ({})", view.ports.len());
    Table::new(rows, widths).header(Row::new(headings)).block(block(title, screen.panel == Panel::Ports))
}

/// Width of a column of numbers, in characters.
const NUMBER: u16 = 8;
const LINE: usize = 16;

fn name_width(width: u16, has_frames: bool, has_line: bool) -> usize {
    let numbers = if has_frames { 5 } else { 3 };
    let line = if has_line { LINE as u16 + 1 } else { 0 };
    usize::from(width.saturating_sub(numbers * (NUMBER + 1) + line).max(8))
}

fn flows(view: &View, screen: &Screen) -> impl Widget {
    let (title, numbers) = match &view.flows_by {
        By::Sample(1) => (format!("flows ({})", view.flows.len()), ["b/s", "f/s"]),
        By::Sample(sample) => (format!("flows ({}), by 1 frame of {sample}", view.flows.len()), ["b/s", "f/s"]),
        By::Connections(why) if why.is_empty() => (format!("flows of NAT ({})", view.flows.len()), ["active", "all"]),
        By::Connections(why) => (format!("flows of NAT ({}), no capture: {}", view.flows.len(), plain(why)), ["active", "all"]),
    };
    let row = |flow: &FlowRow| {
        let ends = if flow.to.is_empty() { plain(&flow.from) } else { format!("{} > {}", plain(&flow.from), plain(&flow.to)) };
        let [first, second] = match &view.flows_by {
            By::Sample(_) => [flow.bits, flow.frames].map(short),
            By::Connections(_) => [flow.active, flow.connections].map(|count| count.to_string()),
        }
        .map(|number| Cell::new(Line::from(number).right_aligned()));
        Row::new([Cell::new(plain(&flow.protocol)), Cell::new(ends), first, second])
    };
    let rows: Vec<Row<'static>> = view.flows.iter().skip(skipped(screen, Panel::Flows)).map(row).collect();
    let widths = [Constraint::Length(4), Constraint::Fill(1), Constraint::Length(6), Constraint::Length(5)];
    let heading = |text| Line::styled(text, Modifier::BOLD);
    let numbers = numbers.map(|text| heading(text).right_aligned());
    let headings = [heading("flow"), heading("")].into_iter().chain(numbers).map(Cell::new);
    Table::new(rows, widths).header(headings.collect::<Row<'static>>()).block(block(title, screen.panel == Panel::Flows))
}

fn drops(drops: &[DropRow], screen: &Screen) -> impl Widget {
    let row = |drop: &DropRow| Row::new([Cell::new(plain(&drop.reason)), number(drop.rate), number(drop.total as f64)]);
    let rows: Vec<Row<'static>> = drops.iter().skip(skipped(screen, Panel::Drops)).map(row).collect();
    let headings = [Line::from("reason"), Line::from("a second").right_aligned(), Line::from("all").right_aligned()];
    let headings = headings.map(|heading| Cell::new(heading.style(Modifier::BOLD)));
    let widths = [Constraint::Fill(1), Constraint::Length(8), Constraint::Length(6)];
    Table::new(rows, widths).header(Row::new(headings)).block(block("drops".to_owned(), screen.panel == Panel::Drops))
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
    fn names_keep_their_end() {
        assert_eq!([shortened("/run/guests#12", 8), shortened("tap0", 8)], ["..sts#12", "tap0"]);
    }
}
