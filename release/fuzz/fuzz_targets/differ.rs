//! Any bytes as two artifacts that differ: a place is named, whatever they claim to be.

use release::differ::{archive, content, elf, erofs, image, text};

libfuzzer_sys::fuzz_target!(|pair: (&[u8], &[u8])| {
    let (theirs, ours) = pair;
    match content(theirs, ours) {
        None => assert_eq!(theirs, ours),
        Some(found) => assert!(!found.place.is_empty()),
    }
    let _ = elf::compare(theirs, ours);
    let _ = image::compare(theirs, ours);
    let _ = archive::all(theirs, ours);
    let _ = text::compare(theirs, ours);
    let _ = erofs::compare(theirs, ours);
    if let Ok(sections) = elf::sections(ours) {
        assert!(sections.iter().all(|section| section.range.end <= ours.len()));
    }
});
