//! The nearest spelling of a mistyped word.

/// The candidate that is at most a third (at least one, at most three) of the word's letters away, case aside.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64;
    let word = word.to_lowercase();
    let length = word.chars().count();
    if length == 0 || length > LONGEST {
        return None;
    }
    let allowed = (length / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter(|c| c.len() <= LONGEST)
        .map(|c| (distance(&word, &c.to_lowercase()), c))
        .filter(|(d, _)| *d > 0 && *d <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// ``did you mean `x`?`` for the nearest candidate.
pub(crate) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|c| format!("did you mean `{c}`?"))
}

/// How many letters have to be put in, left out, changed or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = vec![];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(above.len());
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let changed = at(&above, j) + usize::from(x != y);
            let mut here = changed.min(at(&above, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                here = here.min(at(&before, j - 1) + 1);
            }
            row.push(here);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found() {
        assert_eq!(nearest("RUNN", ["ADD", "RUN"]), Some("RUN"));
        assert_eq!(nearest("WROKDIR", ["WORKDIR"]), Some("WORKDIR"));
        assert_eq!(nearest("frobnicate", ["RUN"]), None);
        assert_eq!(nearest("PAHT", ["PATH"]), Some("PATH"));
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!((distance("ab", "ba"), distance("", "ab"), distance("ab", "")), (1, 2, 2));
    }
}
