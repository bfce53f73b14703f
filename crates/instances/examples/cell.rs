//! What becomes a container in the tests and in the benchmark of this crate: the part of the
//! platform's binary that is executed again. It does nothing else.

fn main() {
    bugle_instances::become_program();
}
