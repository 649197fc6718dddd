//! The partition of a key, as Kafka's Java clients choose it: murmur2 of the key's bytes, sign bit off, modulo the
//! number of partitions. Everybody who writes a topic must agree, or the records of a key lose their order.

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;

/// The partition of `key` among `partitions`.
///
/// `partitions` must not be 0: a topic has at least one.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    debug_assert!(partitions > 0, "a topic has at least one partition");
    let positive = (murmur2(key) & 0x7fff_ffff) as i32;
    positive % partitions.max(1)
}

/// MurmurHash2, 32 bits, with the seed of Kafka's clients.
pub fn murmur2(bytes: &[u8]) -> u32 {
    // The reference mixes in the length as a 32-bit number; Kafka's keys are shorter than 2 GiB.
    let mut hash = SEED ^ bytes.len() as u32;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let mut mixed = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed.wrapping_mul(MULTIPLIER);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values from the tests of Kafka's own clients (`UtilsTest.testMurmur2`).
    #[test]
    fn agrees_with_the_java_clients() {
        let known: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    proptest! {
        #[test]
        fn is_within_the_topic(key: Vec<u8>, partitions in 1..200i32) {
            let partition = partition_of(&key, partitions);
            prop_assert!((0..partitions).contains(&partition));
        }
    }
}
