//! Any bytes as what is inside of a tar.gz.

#![no_main]

libfuzzer_sys::fuzz_target!(|tar: &[u8]| {
    let tar = bugle_fuzz::with_checksums(tar);
    bugle_fuzz::unpack_and_look(&bugle_fuzz::gzip(&tar));
});
