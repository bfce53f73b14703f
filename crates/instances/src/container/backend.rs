//! What makes a container of a cell.
//!
//! A cell is in its namespaces and its control group already; a back end decides who does the rest:
//! the cell itself ([`Native`]), or a runtime of the Open Container Initiative that takes the cell's
//! place (`oci`). To the platform both look the same from then on: the first process of a namespace,
//! whose end is the end of everything in it, in a group that counts and limits, beside a network that
//! is entered to speak with it. So stopping, killing and measuring are written once.

use std::fmt;
use std::path::Path;

use super::orders::Orders;

/// Who makes containers.
pub(super) trait Backend: fmt::Debug + Send + Sync {
    /// Whether cells keep the machine's mounts and their rights for it.
    fn wants_bare_cells(&self) -> bool;

    /// Completes what a cell is told. `folder` is the instance's own, and `group` what a runtime is
    /// to call its control group. Blocks.
    ///
    /// # Errors
    ///
    /// What could not be written.
    fn prepare(&self, orders: &mut Orders, folder: &Path, group: &str) -> Result<(), String>;
}

/// The platform itself.
#[derive(Debug)]
pub(super) struct Native;

impl Backend for Native {
    fn wants_bare_cells(&self) -> bool {
        false
    }

    fn prepare(&self, _orders: &mut Orders, _folder: &Path, _group: &str) -> Result<(), String> {
        Ok(())
    }
}
