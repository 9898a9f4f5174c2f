//! Columns of text, laid out as Go's `tabwriter` lays them out.

/// Rows as lines: each column but the last is as wide as its widest cell and `padding`, and at least `minimum`.
pub fn columns(rows: &[Vec<String>], minimum: usize, padding: usize) -> String {
    let width_of = |cell: &String| cell.chars().count();
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|c| rows.iter().filter_map(|r| r.get(c)).map(width_of).max().unwrap_or(0))
        .map(|w| (w + padding).max(minimum))
        .collect();
    let mut out = String::new();
    for row in rows {
        for (i, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if i + 1 < row.len() {
                let pad = widths.get(i).map_or(0, |w| w.saturating_sub(width_of(cell)));
                out.extend(std::iter::repeat_n(' ', pad));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn cells_stand_below_each_other() {
        let row = |a: &str, b: &str, c: &str| vec![a.to_owned(), b.to_owned(), c.to_owned()];
        let rows = [row("NAME", "ID", "SIZE"), row("localhost/x", "1", "2 MB")];
        assert_eq!(super::columns(&rows, 0, 3), "NAME          ID   SIZE\nlocalhost/x   1    2 MB\n");
        assert_eq!(super::columns(&rows, 10, 3), "NAME          ID        SIZE\nlocalhost/x   1         2 MB\n");
    }
}
