//! Any bytes as a package: whichever format they look like, nothing leaves the folder.

#![no_main]

libfuzzer_sys::fuzz_target!(|package: &[u8]| bugle_fuzz::unpack_and_look(package));
