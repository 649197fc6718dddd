//! The inputs in `fuzz/corpus`, run through the checks of the fuzz targets without a fuzzer.

#[path = "checks/mod.rs"]
mod checks;

use std::fs;
use std::path::Path;

use checks::ALL;

#[test]
fn every_kept_input_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, check) in ALL {
        let folder = fs::read_dir(corpus.join(target)).expect("every target has inputs");
        let mut paths: Vec<_> = folder.map(|entry| entry.expect("a file").path()).collect();
        paths.sort();
        assert!(paths.len() > 3, "{target} has inputs");
        for path in paths {
            let input = fs::read(&path).expect("a file that can be read");
            // Says which one it was: a panic tells what did not hold, not of what.
            let held = std::panic::catch_unwind(|| check(&input));
            assert!(held.is_ok(), "{} does not hold", path.display());
        }
    }
}
