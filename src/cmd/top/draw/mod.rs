//! Drawing: a screen into cells.
//!
//! Owns where everything goes and how it is marked. The same cells become a terminal's picture and the
//! plain text of `--once`.

mod grid;
mod header;
mod panels;
#[cfg(test)]
mod tests;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Widget};

use super::marks::Level;
use super::screen::{PANELS, Panel, Screen};
use super::text::{shorten, width};
use panels::Content;

/// Below this many lines for tables there is one of them at a time.
const ALL_TABLES_LINES_MIN: u16 = 15;

/// A picture in plain text has no more rows than this.
const PLAIN_LINES_MAX: usize = 10_000;

/// How things look. Nothing is said by colours alone: there may be none.
#[derive(Clone, Copy, Debug)]
struct Theme {
    has_colours: bool,
}

impl Theme {
    fn coloured(self, style: Style, colour: Color) -> Style {
        if self.has_colours { style.fg(colour) } else { style }
    }

    fn level(self, level: Level) -> Style {
        match level {
            Level::Fine => Style::new(),
            Level::Look => self.coloured(Style::new(), Color::Yellow),
            Level::Wrong => self.coloured(Style::new().add_modifier(Modifier::BOLD), Color::Red),
        }
    }

    fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    fn alarm(self) -> Style {
        self.level(Level::Wrong).add_modifier(Modifier::REVERSED)
    }

    fn old(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

/// Draws all that fits into an area.
pub(super) fn draw(screen: &mut Screen, area: Rect, buf: &mut Buffer) {
    let theme = Theme { has_colours: screen.has_colours };
    let mut left = area.intersection(buf.area);
    if left.is_empty() {
        return;
    }
    let is_asking = screen.question.is_some() || screen.notice.is_some();
    if is_asking || left.height >= 6 {
        let foot = Rect { y: left.bottom() - 1, height: 1, ..left };
        left.height -= 1;
        header::below(screen, theme, usize::from(foot.width)).render(foot, buf);
    }
    let lines_max = match left.height {
        0..=3 => 1,
        4..=8 => 2,
        9..=14 => 3,
        _ => 6,
    };
    let above = header::above(screen, theme, lines_max);
    for line in above {
        let Some(row) = cut(&mut left, 1) else { return };
        line.render(row, buf);
    }
    let body = left;
    if body.height < ALL_TABLES_LINES_MIN {
        one_table(screen, body, buf, theme);
    } else {
        all_tables(screen, body, buf, theme);
    }
    if screen.lost.is_some() {
        buf.set_style(body, theme.old());
    }
    if screen.is_help_open {
        help(area, buf, theme);
    }
}

/// All there is, as text, for a terminal so many columns wide or for no terminal.
pub(super) fn plain(screen: &mut Screen, columns: u16) -> String {
    let theme = Theme { has_colours: false };
    let mut text = String::new();
    let mut add = |height: usize, draw: &mut dyn FnMut(Rect, &mut Buffer)| {
        let height = u16::try_from(height.min(PLAIN_LINES_MAX)).unwrap_or(u16::MAX);
        let area = Rect::new(0, 0, columns, height);
        let mut buf = Buffer::empty(area);
        draw(area, &mut buf);
        write_lines(&buf, &mut text);
    };
    for line in header::above(screen, theme, PLAIN_LINES_MAX) {
        add(1, &mut |area, buf| line.clone().render(area, buf));
    }
    for panel in PANELS {
        let content = panels::content(screen, panel);
        add(1 + height(&content, columns), &mut |mut area, buf| {
            cut(&mut area, 1);
            table(screen, &content, panel, area, buf, theme, false);
        });
    }
    text
}

fn write_lines(buf: &Buffer, text: &mut String) {
    for y in buf.area.rows().map(|row| row.y) {
        let (mut line, mut x) = (String::new(), buf.area.x);
        while x < buf.area.right() {
            let symbol = buf[(x, y)].symbol();
            line.push_str(symbol);
            // What a wide character covers is no blank.
            x += u16::try_from(width(symbol).max(1)).unwrap_or(1);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// The first lines of what is left, if there are so many.
fn cut(left: &mut Rect, lines: u16) -> Option<Rect> {
    let top = (left.height >= lines).then_some(Rect { height: lines, ..*left })?;
    left.y += lines;
    left.height -= lines;
    Some(top)
}

/// How many lines a panel would take.
fn height(content: &Content, columns: u16) -> usize {
    1 + flow(content, columns).len() + 1 + content.grid.rows.len().max(1)
}

/// A panel's facts in lines.
fn flow(content: &Content, columns: u16) -> Vec<Vec<(Level, String)>> {
    let (mut lines, mut taken): (Vec<Vec<(Level, String)>>, usize) = (Vec::new(), 0);
    for (level, fact) in &content.facts {
        let text = if level.sign().is_empty() { fact.clone() } else { format!("{} {fact}", level.sign()) };
        let room = usize::from(columns).saturating_sub(taken);
        match lines.last_mut() {
            Some(line) if width(&text) + 3 <= room => line.push((*level, text.clone())),
            _ => {
                lines.push(vec![(*level, text.clone())]);
                taken = 0;
            }
        }
        taken += width(&text) + 3;
    }
    lines
}

/// One table, with the names of the others above it.
fn one_table(screen: &mut Screen, mut area: Rect, buf: &mut Buffer, theme: Theme) {
    let Some(top) = cut(&mut area, 1) else { return };
    let focus = screen.focus;
    let content = panels::content(screen, focus);
    let mut tabs = Vec::new();
    for panel in PANELS {
        let style = if panel == focus { theme.selected() } else { theme.old() };
        tabs.extend([Span::styled(panels::name(panel), style), Span::raw(" ")]);
    }
    tabs.push(Span::styled(format!(" {}", content.title), theme.title()));
    Line::from(tabs).render(top, buf);
    rows(screen, &content, focus, area, buf, theme, true);
}

/// All three, one below the other.
fn all_tables(screen: &mut Screen, mut area: Rect, buf: &mut Buffer, theme: Theme) {
    let contents = PANELS.map(|panel| panels::content(screen, panel));
    let wanted = contents.each_ref().map(|content| height(content, area.width));
    let heights = shares(wanted, usize::from(area.height));
    for ((panel, content), height) in PANELS.into_iter().zip(&contents).zip(heights) {
        let Some(place) = cut(&mut area, height) else { return };
        table(screen, content, panel, place, buf, theme, panel == screen.focus);
    }
}

/// How many lines each of three tables gets: what they want where there is enough. Else the last may have a third
/// and of the rest each of the others half, and whoever wants less leaves it to the others.
fn shares(wanted: [usize; 3], room: usize) -> [u16; 3] {
    let [first, second, third] = wanted;
    let third_share = third.min((room / 3).max(room.saturating_sub(first + second)));
    let rest = room - third_share;
    let first_share = first.min((rest / 2).max(rest.saturating_sub(second)));
    let second_share = second.min(rest - first_share);
    [first_share, second_share, third_share].map(|lines| u16::try_from(lines).unwrap_or(u16::MAX))
}

fn table(
    screen: &mut Screen,
    content: &Content,
    panel: Panel,
    mut area: Rect,
    buf: &mut Buffer,
    theme: Theme,
    is_focused: bool,
) {
    let Some(top) = cut(&mut area, 1) else { return };
    let style = if is_focused { theme.selected() } else { theme.title() };
    let (name, title) = (panels::name(panel), format!(" {} ", content.title));
    let rule = "─".repeat(usize::from(top.width).saturating_sub(width(name) + width(&title)));
    let spans = vec![Span::styled(name, style), Span::raw(title), Span::styled(rule, theme.old())];
    Line::from(spans).render(top, buf);
    rows(screen, content, panel, area, buf, theme, is_focused);
}

fn rows(
    screen: &mut Screen,
    content: &Content,
    panel: Panel,
    mut area: Rect,
    buf: &mut Buffer,
    theme: Theme,
    is_focused: bool,
) {
    for line in flow(content, area.width) {
        // Where there is little room, the rows matter more.
        if area.height < 4 {
            break;
        }
        let Some(row) = cut(&mut area, 1) else { return };
        let spans = line.into_iter().map(|(level, text)| Span::styled(format!("{text}   "), theme.level(level)));
        Line::from_iter(spans).render(row, buf);
    }
    let selection = screen.selection(panel);
    if content.grid.rows.is_empty() {
        Span::styled("   none", theme.old()).render(area, buf);
    } else {
        content.grid.draw(area, buf, theme, selection, is_focused);
    }
}

fn help(area: Rect, buf: &mut Buffer, theme: Theme) {
    let columns = header::HELP.iter().map(|line| width(line)).max().unwrap_or(0);
    let wanted = |room: u16, lines: usize| room.min(u16::try_from(lines).unwrap_or(u16::MAX));
    let (across, down) = (wanted(area.width, columns + 4), wanted(area.height, header::HELP.len() + 2));
    let place = Rect {
        x: area.x + (area.width - across) / 2,
        y: area.y + (area.height - down) / 2,
        width: across,
        height: down,
    };
    Clear.render(place, buf);
    // A frame only where the text has room in it.
    let is_roomy = usize::from(down) >= header::HELP.len() + 2 && usize::from(across) >= columns + 2;
    let block = if is_roomy { Block::bordered().title(" streamer top ") } else { Block::new() };
    let lines = header::HELP.map(|line| Line::raw(shorten(line, usize::from(across))));
    Paragraph::new(lines.to_vec()).style(theme.title()).block(block).render(place, buf);
}
