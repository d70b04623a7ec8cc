//! The indices of backends. A packet draws an index, so backends have the indices from 0 to their count without a gap; and one
//! that comes or goes moves one other at most, so that an update of the kernel's map is a few elements however many there are.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::endpoints::Backend;

/// The backends `wanted` (each once) with the indices that they have in `previous`, as far as the indices stay without a gap.
#[must_use]
pub fn arrange(previous: &[Backend], wanted: Vec<Backend>) -> Vec<Backend> {
    let count = wanted.len();
    let mut wanted: BTreeMap<SocketAddr, Backend> =
        wanted.into_iter().map(|backend| (backend.to, backend)).collect();
    let kept: Vec<Option<Backend>> = previous.iter().map(|backend| wanted.remove(&backend.to)).collect();
    let behind = kept.iter().skip(count).copied().flatten();
    let mut fill = wanted.into_values().chain(behind);
    (0..count).filter_map(|index| kept.get(index).copied().flatten().or_else(|| fill.next())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn backend(number: u16) -> Backend {
        Backend { to: SocketAddr::new([10, 244, 0, 1].into(), number), is_local: number.is_multiple_of(2) }
    }

    fn backends(numbers: &[u16]) -> Vec<Backend> {
        numbers.iter().copied().map(backend).collect()
    }

    #[test]
    fn one_that_goes_is_replaced_by_the_last() {
        let before = backends(&[5, 3, 9, 1]);
        assert_eq!(arrange(&before, backends(&[1, 3, 9])), backends(&[1, 3, 9]));
        assert_eq!(arrange(&before, backends(&[1, 5, 9])), backends(&[5, 1, 9]));
        assert_eq!(arrange(&before, backends(&[1, 3, 4, 5, 9])), backends(&[5, 3, 9, 1, 4]));
        assert_eq!(arrange(&before, backends(&[1, 4, 5, 9])), backends(&[5, 4, 9, 1]));
    }

    #[test]
    fn a_backend_that_moves_to_this_node_stays_where_it_is() {
        let before = backends(&[5, 3]);
        let moved = Backend { is_local: true, ..backend(5) };
        assert_eq!(arrange(&before, vec![backend(3), moved]), [moved, backend(3)]);
    }

    proptest! {
        #[test]
        fn as_few_move_as_can_be(before: BTreeSet<u16>, after: BTreeSet<u16>, seed: u64) {
            let mut before: Vec<u16> = before.into_iter().collect();
            let turn = usize::try_from(seed % 7).unwrap().min(before.len());
            before.rotate_left(turn);
            let after: Vec<u16> = after.into_iter().collect();
            let arranged = arrange(&backends(&before), backends(&after));
            let sorted: Vec<u16> = arranged.iter().map(|backend| backend.to.port()).collect::<BTreeSet<_>>().into_iter().collect();
            prop_assert_eq!((sorted, arranged.len()), (after.clone(), after.len()));
            // Whatever stays and had an index below the new count keeps it.
            for (index, number) in before.iter().enumerate().take(after.len()) {
                if after.contains(number) {
                    prop_assert_eq!(arranged[index].to.port(), *number);
                }
            }
        }
    }
}
