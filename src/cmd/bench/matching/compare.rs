//! Whether contenders agree.

/// Where somebody counts other matches than the first, in words. Each is compared as far as it got.
pub(super) fn disagreements(counts: &[(&str, &[u32])]) -> Vec<String> {
    let Some(((first, expected), others)) = counts.split_first() else { return Vec::new() };
    let differs = |(name, counts): &(&str, &[u32])| {
        let place = expected.iter().zip(*counts).position(|(a, b)| a != b)?;
        let differing = expected.iter().zip(*counts).filter(|(a, b)| a != b).count();
        Some(format!(
            "change {place} matches {} by {first} and {} by {name}; {differing} of {} changes differ",
            expected[place],
            counts[place],
            expected.len().min(counts.len()),
        ))
    };
    others.iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_counts_the_same_agrees_as_far_as_it_got() {
        let counts: [(&str, &[u32]); 4] = [("engine", &[1, 2, 3]), ("a", &[1, 2, 3]), ("b", &[1, 2]), ("c", &[])];
        assert!(disagreements(&counts).is_empty());
        assert!(disagreements(&[]).is_empty());
    }

    #[test]
    fn who_counts_otherwise_is_named() {
        let counts: [(&str, &[u32]); 4] = [("engine", &[1, 2, 3]), ("a", &[1, 2, 4]), ("b", &[0, 1]), ("c", &[1])];
        assert_eq!(
            disagreements(&counts),
            [
                "change 2 matches 3 by engine and 4 by a; 1 of 3 changes differ",
                "change 0 matches 1 by engine and 0 by b; 2 of 2 changes differ",
            ]
        );
    }

    #[test]
    fn equal_sums_do_not_hide_a_difference() {
        let counts: [(&str, &[u32]); 2] = [("engine", &[1, 2]), ("a", &[2, 1])];
        assert_eq!(disagreements(&counts).len(), 1);
    }
}
