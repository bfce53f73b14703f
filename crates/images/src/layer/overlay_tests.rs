//! Random images, unpacked and mounted: what comes out is what their layers say.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use proptest::collection::vec;
use proptest::prelude::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tar::{Builder, EntryType, Header};

use super::{Limits, Source, unpack};
use crate::Digest;

/// What somebody does in one layer.
#[derive(Clone, Debug)]
enum Change {
    File(String, u8),
    Directory(String),
    Link(String, String),
    Delete(String),
    /// Deletes a directory and makes it anew, as tools write it.
    Replace(String),
}

/// What a path is in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    File(u8),
    Directory,
    Link(String),
}

type Tree = BTreeMap<String, Node>;

fn any_path() -> impl Strategy<Value = String> {
    vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|parts| parts.join("/"))
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any_path(), any::<u8>()).prop_map(|(path, data)| Change::File(path, data)),
        2 => any_path().prop_map(Change::Directory),
        1 => (any_path(), any_path()).prop_map(|(path, to)| Change::Link(path, to)),
        3 => any_path().prop_map(Change::Delete),
        1 => any_path().prop_map(Change::Replace),
    ]
}

fn remove(tree: &mut Tree, path: &str) {
    let below = format!("{path}/");
    tree.retain(|other, _| other != path && !other.starts_with(&below));
}

/// Every directory above a path, from the top.
fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// Changes a tree, and writes down what the layer has to say: nothing below a file or a link, and
/// nothing deleted that is not there.
fn apply(tree: &mut Tree, changes: &[Change]) -> Tree {
    for change in changes {
        let (Change::File(path, _)
        | Change::Directory(path)
        | Change::Link(path, _)
        | Change::Delete(path)
        | Change::Replace(path)) = change;
        let blocked = |up: &str| tree.get(up).is_some_and(|node| *node != Node::Directory);
        if above(path).any(blocked) {
            continue;
        }
        if let Change::Delete(path) = change {
            remove(tree, path);
            continue;
        }
        for up in above(path) {
            tree.insert(up.to_owned(), Node::Directory);
        }
        let node = match change {
            Change::File(_, data) => Node::File(*data),
            Change::Link(_, to) => Node::Link(to.clone()),
            _ => Node::Directory,
        };
        let stays = node == Node::Directory && tree.get(path) == Some(&Node::Directory);
        if !stays || matches!(change, Change::Replace(_)) {
            remove(tree, path);
        }
        tree.insert(path.clone(), node);
    }
    tree.clone()
}

/// The layer that leads from one tree to the next, with deletions by whiteouts, and with opaque
/// directories where `opaque` says so.
fn layer(before: &Tree, after: &Tree, opaque: bool) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut add = |kind: EntryType, path: &str, link: &str, data: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_path(path).unwrap();
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        builder.append(&header, data).unwrap();
    };
    let whiteout = |path: &str| match path.rsplit_once('/') {
        Some((parent, name)) => format!("{parent}/.wh.{name}"),
        None => format!(".wh.{path}"),
    };
    let gone = |path: &str| before.contains_key(path) && !after.contains_key(path);
    // A directory of which all that was is gone may be hidden as a whole.
    let hidden = |path: &str| {
        let below = format!("{path}/");
        let mut old = before
            .keys()
            .filter(|other| other.starts_with(&below))
            .peekable();
        opaque && old.peek().is_some() && old.all(|other| !after.contains_key(other))
    };
    for (path, node) in after {
        match node {
            Node::File(data) if before.get(path) != Some(node) => {
                add(EntryType::Regular, path, "", &[*data]);
            }
            Node::Link(to) if before.get(path) != Some(node) => {
                add(EntryType::Symlink, path, to, b"");
            }
            Node::Directory => {
                add(EntryType::Directory, path, "", b"");
                if hidden(path) {
                    add(EntryType::Regular, &format!("{path}/.wh..wh..opq"), "", b"");
                }
            }
            _ => {}
        }
    }
    for path in before.keys().filter(|path| gone(path)) {
        // What lies below something that is gone, or is no directory any more, went with it.
        let covered = above(path).any(|up| {
            gone(up) || after.get(up).is_some_and(|node| *node != Node::Directory) || hidden(up)
        });
        if !covered {
            add(EntryType::Regular, &whiteout(path), "", b"");
        }
    }
    builder.into_inner().unwrap()
}

fn unpack_into(folder: &Path, tar: &[u8]) {
    fs::create_dir(folder).unwrap();
    let limits = Limits {
        inflated: &AtomicU64::new(0),
        most_inflated: 1 << 30,
        most_entries: 10_000,
        progress: &AtomicU64::new(0),
    };
    let source = Source {
        bytes: tar,
        blob: Some((Digest::of(tar), tar.len() as u64)),
        diff_id: Digest::of(tar),
    };
    unpack(source, fs::File::open(folder).unwrap().into(), &limits).unwrap();
}

fn read(root: &Path, folder: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        assert!(!kind.is_char_device(), "{name} is a device");
        if kind.is_symlink() {
            let to = fs::read_link(&path).unwrap();
            tree.insert(name, Node::Link(to.to_str().unwrap().to_owned()));
        } else if kind.is_dir() {
            tree.insert(name, Node::Directory);
            read(root, &path, tree);
        } else {
            tree.insert(name, Node::File(fs::read(&path).unwrap()[0]));
        }
    }
}

/// Unmounts whatever becomes of the test.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_overlay_of_the_layers_is_what_the_layers_say(
        steps in vec((vec(any_change(), 0..12), any::<bool>()), 1..5),
    ) {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root mounts");
            return Ok(());
        }
        let folder = tempfile::tempdir().unwrap();
        // One layer alone would be no overlay.
        let mut lower = vec![folder.path().join("0")];
        fs::create_dir(&lower[0]).unwrap();
        let mut tree = Tree::new();
        for (number, (changes, opaque)) in steps.iter().enumerate() {
            let before = tree.clone();
            let after = apply(&mut tree, changes);
            let path = folder.path().join((number + 1).to_string());
            unpack_into(&path, &layer(&before, &after, *opaque));
            lower.push(path);
        }
        let point = folder.path().join("mounted");
        fs::create_dir(&point).unwrap();
        let names: Vec<_> = lower.iter().rev().map(|path| path.to_str().unwrap()).collect();
        let options = std::ffi::CString::new(format!("lowerdir={}", names.join(":"))).unwrap();
        mount("overlay", &point, "overlay", MountFlags::RDONLY, Some(&*options)).unwrap();
        let _mounted = Mounted(&point);
        let mut found = Tree::new();
        read(&point, &point, &mut found);
        prop_assert_eq!(found, tree);
    }
}
