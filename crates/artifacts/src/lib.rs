//! Turns what a function calls its code into a directory that is ready to run.
//!
//! The operator lists the directories below which code may be; a function names a path, and gets
//! it only if it is really below one of them, whatever links the path goes through. A function may
//! ask for its code to be copied first, so that later changes of the directory do not reach it.
//!
//! ```
//! use bugle_artifacts::CodeRoots;
//! use bugle_types::{CodeLocation, Generation};
//!
//! # let dir = tempfile::tempdir()?;
//! # std::fs::create_dir(dir.path().join("hello"))?;
//! let roots = CodeRoots::new(&[dir.path().to_owned()], dir.path().join("cache"))?;
//! let code = dir.path().join("hello").to_string_lossy().into_owned();
//! let ready = roots.resolve(&CodeLocation::Local(code), &Generation("1".into()))?;
//! assert!(ready.ends_with("hello"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod address;
pub mod archive;
mod copy;
mod remove;
mod roots;

pub use copy::{CopyError, open_directory};
pub use roots::{CodeRoots, Error};
