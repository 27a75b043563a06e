//! Arbitrary bytes at every entrance: the fuzzer's seeds, each also truncated and with bytes
//! changed.

use std::path::PathBuf;

use e2e::{hostile::Entrances, root, trained};

/// Variants of a seed.
const VARIANTS: u64 = 24;

/// The seeds of a target of tests/fuzz, in the order of their names.
fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = fs_err::read_dir(root().join("tests/fuzz/seeds").join(target)).unwrap();
    let mut paths: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no seeds");
    paths
        .into_iter()
        .map(|path| (path.clone(), fs_err::read(path).unwrap()))
        .collect()
}

/// The seed with a few bytes changed or its end cut off; a number always gives the same variant.
fn variant(seed: &[u8], number: u64) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let mut state = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.len() as u64) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for _ in 0..=next(4) {
        match (next(4), bytes.len()) {
            (_, 0) => {}
            (0, length) => bytes.truncate(next(length)),
            (1, length) => bytes.insert(next(length), next(256) as u8),
            (_, length) => bytes[next(length)] = next(256) as u8,
        }
    }
    bytes
}

#[test]
fn no_bytes_at_an_entrance_break_the_shop() {
    let shop = Entrances::open(&trained().models());
    type Entrance = fn(&Entrances, &[u8]);
    let entrances: [(&str, Entrance); 4] = [
        ("grpc", Entrances::grpc),
        ("json", Entrances::json),
        ("inference", Entrances::inference),
        ("model", Entrances::model),
    ];
    for (target, entrance) in entrances {
        let variants = if target == "model" { 2 } else { VARIANTS };
        for (path, seed) in seeds(target) {
            println!("{}", path.display());
            entrance(&shop, &seed);
            (0..variants).for_each(|number| entrance(&shop, &variant(&seed, number)));
        }
    }
}
