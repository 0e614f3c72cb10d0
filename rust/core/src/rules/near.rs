//! "Did you mean": the known word that a mistyped one is nearest to.

/// The nearest of `known`, if it is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (distance(word, candidate), candidate))
        .min()
        .filter(|(edits, candidate)| {
            *edits * 5 <= 2 * word.chars().count().max(candidate.chars().count())
        })
        .map(|(_, candidate)| candidate)
}

/// How many letters have to be put in, taken away or replaced.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, a) in left.chars().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        let mut next = vec![before];
        for (above, b) in row.iter().skip(1).zip(&right) {
            before = (diagonal + usize::from(a != *b))
                .min(above + 1)
                .min(before + 1);
            next.push(before);
            diagonal = *above;
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_found_and_what_is_not_is_not_guessed() {
        let known = ["id", "email", "phone"];
        assert_eq!(nearest("emial", known.into_iter()), Some("email"));
        assert_eq!(nearest("phon", known.into_iter()), Some("phone"));
        assert_eq!(nearest("address", known.into_iter()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
