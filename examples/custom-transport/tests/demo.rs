//! The file chooses `tcp` like any other kind.

use std::process::Command;

fn custom(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_custom-transport")).args(arguments).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn nodes_talk_over_tcp() {
    assert!(custom(&["kinds"]).contains("tcp"));
    let summary = custom(&["demo", "--json", "--messages", "600", "--set", "transport.0.kind=tcp"]);
    for figure in ["\"delivered\":600", "\"lost\":0", "\"duplicates\":0"] {
        assert!(summary.contains(figure), "{summary}");
    }
}
