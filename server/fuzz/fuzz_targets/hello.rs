//! A control line that is understood says the same when it is written again; one that is not gets a short reason.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_wire::control::Control;

fuzz_target!(|data: &[u8]| {
    match Control::parse(data) {
        Ok(control) => {
            let mut line = Vec::new();
            control.put(&mut line);
            let again = Control::parse(&line[..line.len() - 1]).expect("what was understood can be said");
            assert_eq!(format!("{again:?}"), format!("{control:?}"));
        }
        Err(reason) => assert!(reason.len() <= 500, "{reason}"),
    }
});
