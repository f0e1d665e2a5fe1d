//! The parts the work is divided into, and which replica should have one.

use federation_specs::id::TrustDomain;

/// Parts the relationships are divided into. Fixed by the schema.
pub const SHARDS: u16 = 256;

/// The part a trust domain belongs to.
pub(crate) fn shard_of(name: &TrustDomain) -> u16 {
    shard_of_work(name.as_str())
}

/// The part some work belongs to: that of a trust domain under its name, other work under one that is none.
pub(super) fn shard_of_work(name: &str) -> u16 {
    u16::from(digest(name, "").first().copied().unwrap_or_default())
}

/// The replica that should have a part, whoever else is there: the one with the highest hash. When one comes or goes,
/// only its parts move.
pub(crate) fn owner_of<'a>(shard: u16, live: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let place = shard.to_string();
    live.into_iter().max_by_key(|id| digest(id, &place))
}

fn digest(first: &str, second: &str) -> Vec<u8> {
    let text = format!("{first}\n{second}");
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_comes_or_goes_moves_only_its_own_parts() {
        let owners = |live: &[&str]| -> Vec<String> {
            (0..SHARDS).map(|shard| owner_of(shard, live.iter().copied()).unwrap().to_owned()).collect()
        };
        let (two, three) = (owners(&["a", "b"]), owners(&["a", "b", "c"]));
        for (before, after) in two.iter().zip(&three) {
            assert!(before == after || after == "c");
        }
        for id in ["a", "b", "c"] {
            let share = three.iter().filter(|owner| *owner == id).count();
            assert!((50..130).contains(&share), "{id} has {share} of {SHARDS}");
        }
        assert_eq!(owner_of(1, []), None);
    }
}
