//! What is found by looking at what was touched, and what a look at everything finds.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::again::Again;
use super::state::State;
use super::tests::{Bench, base, write};
use super::{Plain, Sharing, Touched};

/// A step's calls, as a supervisor of it makes them.
struct Watched<'a> {
    root: &'a Path,
    touched: Touched,
}

impl Watched<'_> {
    fn ino(&self, path: &str) -> Option<u64> {
        fs::symlink_metadata(self.root.join(path)).ok().map(|meta| meta.ino())
    }

    /// A name that is going to be made, removed or moved.
    fn entry(&mut self, path: &str) -> PathBuf {
        let above = Path::new(path).parent().and_then(Path::to_str).unwrap();
        self.ino(above).into_iter().for_each(|ino| self.touched.names_in(ino));
        self.file(path)
    }

    fn file(&mut self, path: &str) -> PathBuf {
        self.ino(path).into_iter().for_each(|ino| self.touched.file(ino));
        self.root.join(path)
    }

    /// One call of many; what cannot be is left.
    fn call(&mut self, chance: &mut impl FnMut(usize) -> usize) {
        let mut path = || {
            let depth = 1 + chance(3);
            let names: Vec<String> = (0..depth).map(|_| format!("n{}", chance(4))).collect();
            names.join("/")
        };
        let (a, b) = (path(), path());
        let _ = match chance(9) {
            0 | 1 => fs::create_dir(self.entry(&a)),
            2 => fs::write(self.entry(&a), &b),
            3 => fs::remove_file(self.entry(&a)),
            4 => fs::remove_dir(self.entry(&a)),
            5 | 6 => fs::rename(self.entry(&a), self.entry(&b)),
            7 => fs::hard_link(self.file(&a), self.entry(&b)),
            _ => fs::set_permissions(self.file(&a), fs::Permissions::from_mode(0o700 + chance(64) as u32)),
        };
    }
}

/// How everything is, by what was touched.
fn found(tree: &Plain, touched: &Touched) -> State {
    match tree.state.again(&tree.fd, touched).unwrap() {
        Again::Same => tree.state.clone(),
        Again::Other(new) => new,
    }
}

/// Steps of random calls: what is found by what was touched is what a look at everything finds.
#[test]
fn a_second_look_at_what_was_touched_finds_everything() {
    let mut seed = 1u64;
    let mut chance = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    let mut bench = Bench::new();
    bench.layer(base);
    let mut tree = bench.tree(Sharing::Never);
    let root = tree.root().to_owned();
    let mut differing = 0;
    for _ in 0..300 {
        let mut watched = Watched { root: &root, touched: Touched::default() };
        for _ in 0..chance(16) {
            watched.call(&mut chance);
        }
        let all = State::scan(&tree.fd).unwrap();
        assert!(found(&tree, &watched.touched) == all);
        differing += usize::from(tree.state != all);
        tree.state = all;
    }
    assert!(differing > 150, "{differing}");
}

#[test]
fn what_nobody_told_of_is_not_found_and_too_much_is_everything() {
    let mut bench = Bench::new();
    bench.layer(base);
    let tree = bench.tree(Sharing::Never);
    let ino = |path: &str| fs::metadata(tree.root().join(path)).unwrap().ino();
    write(tree.root().join("etc/conf"), "changed");
    write(tree.root().join("lib/new"), "new");
    let all = State::scan(&tree.fd).unwrap();
    let mut touched = Touched::default();
    assert!(touched.kept_names() && found(&tree, &touched) == tree.state);
    touched.file(ino("etc/conf"));
    assert!(found(&tree, &touched) != all);
    touched.names_in(ino("lib"));
    assert!(!touched.kept_names() && found(&tree, &touched) == all);
    (0..100_000).for_each(|number| touched.file(number));
    assert!(!touched.kept_names() && tree.state.again(&tree.fd, &touched).is_none());
}
