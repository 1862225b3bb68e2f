//! Putting things in order by a number or by a name.
//!
//! Each type that the standard library sorts costs the binary some five kilobytes; here all of them share two sorts.

/// In the order of a number each has; equals keep their order.
#[must_use]
pub fn by_number<T>(items: Vec<T>, number: impl Fn(&T) -> u128) -> Vec<T> {
    let mut keys: Vec<(u128, usize)> = items.iter().map(number).zip(0..).collect();
    keys.sort_unstable();
    arranged(items, keys.iter().map(|(_, at)| *at))
}

/// In the order of a name each has, by its bytes; equals keep their order.
#[must_use]
pub fn by_name<T>(items: Vec<T>, name: impl Fn(&T) -> &str) -> Vec<T> {
    let order = {
        let mut keys: Vec<(&str, usize)> = items.iter().map(name).zip(0..).collect();
        keys.sort_unstable();
        keys.iter().map(|(_, at)| *at).collect::<Vec<_>>()
    };
    arranged(items, order.into_iter())
}

fn arranged<T>(items: Vec<T>, order: impl Iterator<Item = usize>) -> Vec<T> {
    let mut places: Vec<Option<T>> = items.into_iter().map(Some).collect();
    order
        .filter_map(|at| places.get_mut(at).and_then(Option::take))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_order_is_that_of_a_stable_sort(items in prop::collection::vec((0_u8..4, "[a-c]{0,2}"), 0..40)) {
            let mut expected = items.clone();
            expected.sort_by_key(|(number, _)| *number);
            prop_assert_eq!(by_number(items.clone(), |(number, _)| u128::from(*number)), expected);
            let mut expected = items.clone();
            expected.sort_by(|(_, a), (_, b)| a.cmp(b));
            prop_assert_eq!(by_name(items, |(_, name)| name), expected);
        }
    }
}
