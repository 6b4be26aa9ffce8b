//! A table that fits where it is put.
//!
//! Owns which columns are shown and how wide, given the room. Knows nothing of what they mean.

use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, StatefulWidget, Table};

use super::Theme;
use crate::cmd::top::marks::Level;
use crate::cmd::top::screen::Selection;
use crate::cmd::top::text::{shorten, width};

/// Blank columns between two.
const GAP: usize = 1;

/// Up to these ranks, columns are chosen together, and get what room they want before the next ones are chosen.
const GROUPS: [u8; 2] = [3, 7];

/// One column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Columns of a greater rank go first where there is little room.
    pub(super) rank: u8,
    /// Texts may be cut down to so many; numbers may not be cut.
    pub(super) least: Option<usize>,
}

impl Column {
    /// Of texts, aligned left.
    pub(super) const fn text(title: &'static str, rank: u8, least: usize) -> Self {
        Self { title, rank, least: Some(least) }
    }

    /// Of numbers, aligned right.
    pub(super) const fn number(title: &'static str, rank: u8) -> Self {
        Self { title, rank, least: None }
    }
}

/// Rows under columns.
#[derive(Debug)]
pub(super) struct Grid {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<(Level, Vec<String>)>,
}

impl Grid {
    /// Draws it; a selection is shown where there is one to show.
    pub(super) fn draw(
        &self,
        area: Rect,
        buf: &mut Buffer,
        theme: Theme,
        selection: &mut Selection,
        is_selection_shown: bool,
    ) {
        selection.page = usize::from(area.height.saturating_sub(1));
        let widths = self.widths(usize::from(area.width));
        let cell = |index: usize, width: usize, text: &str| {
            let aligned = if self.columns[index].least.is_some() { Alignment::Left } else { Alignment::Right };
            Cell::from(Line::from(Span::raw(shorten(text, width))).alignment(aligned))
        };
        // Only rows that might be seen: there may be thousands.
        let shown = self.visible(selection, usize::from(area.height));
        let rows = self.rows[shown.clone()].iter().map(|(level, cells)| {
            let cells =
                widths.iter().map(|&(index, width)| cell(index, width, cells.get(index).map_or("", |text| text)));
            Row::new(cells).style(theme.level(*level))
        });
        let titles = widths.iter().map(|&(index, width)| cell(index, width, self.columns[index].title));
        let constraints = widths.iter().map(|&(_, width)| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX)));
        let mut table =
            Table::new(rows, constraints).header(Row::new(titles).style(theme.title())).column_spacing(GAP as u16);
        let mut state = ratatui::widgets::TableState::new();
        if is_selection_shown {
            table = table.row_highlight_style(theme.selected());
            state.select(selection.table.selected().and_then(|index| index.checked_sub(shown.start)));
        }
        StatefulWidget::render(table, area, buf, &mut state);
    }

    /// The rows that fit below the titles, the selected one among them.
    fn visible(&self, selection: &mut Selection, height: usize) -> std::ops::Range<usize> {
        let room = height.saturating_sub(1);
        let selected = selection.table.selected().unwrap_or(0);
        let offset = selection.table.offset().max((selected + 1).saturating_sub(room)).min(selected);
        let offset = offset.min(self.rows.len().saturating_sub(room));
        *selection.table.offset_mut() = offset;
        offset..self.rows.len().min(offset + room)
    }

    fn group(&self, index: usize) -> usize {
        GROUPS.partition_point(|&last| last < self.columns[index].rank)
    }

    /// Which columns there is room for, and how wide each is.
    fn widths(&self, room: usize) -> Vec<(usize, usize)> {
        let natural = |index: usize| {
            let cells = self.rows.iter().filter_map(|(_, cells)| cells.get(index)).map(|text| width(text)).max();
            let cells = cells.unwrap_or(0);
            // A column of texts in which nothing stands, such as that of notes, is none.
            let is_empty = cells == 0 && self.columns[index].least.is_some() && !self.columns[index].title.is_empty();
            if is_empty { 0 } else { cells.max(width(self.columns[index].title)) }
        };
        let mut order: Vec<usize> = (0..self.columns.len()).filter(|&index| natural(index) > 0).collect();
        order.sort_by_key(|&index| self.columns[index].rank);
        let mut chosen = Chosen { columns: Vec::new(), left: room };
        for group in order.chunk_by(|&one, &other| self.group(one) == self.group(other)) {
            for &index in group {
                let natural = natural(index);
                chosen.add(index, self.columns[index].least.map_or(natural, |least| least.min(natural)), natural);
            }
            // Texts can mostly be read as a whole before lesser columns may come; an overlong one has to wait.
            chosen.widen(room / 3);
        }
        chosen.widen(room);
        let mut chosen = chosen.columns;
        chosen.sort_by_key(|&(index, ..)| index);
        chosen.into_iter().map(|(index, width, _)| (index, width)).collect()
    }
}

/// Columns for which there was room.
struct Chosen {
    /// Index, width, and the width that would be enough.
    columns: Vec<(usize, usize, usize)>,
    left: usize,
}

impl Chosen {
    fn add(&mut self, index: usize, width: usize, natural: usize) {
        let gap = if self.columns.is_empty() { 0 } else { GAP };
        if let Some(left) = self.left.checked_sub(gap + width) {
            self.left = left;
            self.columns.push((index, width, natural));
        }
    }

    /// What is left over goes to those that were cut, the first ones first.
    fn widen(&mut self, width_max: usize) {
        for (_, width, natural) in &mut self.columns {
            let more = self.left.min((*natural).min(width_max).saturating_sub(*width));
            *width += more;
            self.left -= more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let columns = vec![
            Column::text("name", 0, 4),
            Column::number("minor", 5),
            Column::number("lag", 1),
            Column::text("note", 6, 6),
        ];
        let rows = (0..50)
            .map(|row| (Level::Fine, vec![format!("name-{row:02}-long"), "1".into(), "22 s".into(), String::new()]));
        Grid { columns, rows: rows.collect() }
    }

    #[test]
    fn columns_of_less_rank_go_first_and_names_are_cut_before() {
        let grid = grid();
        assert_eq!(grid.widths(80), [(0, 12), (1, 5), (2, 4)], "nothing is noted");
        assert_eq!(grid.widths(20), [(0, 9), (1, 5), (2, 4)]);
        assert_eq!(grid.widths(14), [(0, 9), (2, 4)]);
        assert_eq!(grid.widths(5), [(0, 5)]);
        assert_eq!(grid.widths(3), []);
    }

    #[test]
    fn the_selected_row_is_among_those_shown() {
        let (grid, mut selection) = (grid(), Selection::default());
        for (selected, height, expected) in
            [(0, 5, 0..4), (10, 5, 7..11), (8, 5, 7..11), (49, 11, 40..50), (3, 200, 0..50), (3, 1, 3..3), (3, 0, 3..3)]
        {
            selection.table.select(Some(selected));
            assert_eq!(grid.visible(&mut selection, height), expected, "{selected} in {height}");
        }
    }
}
