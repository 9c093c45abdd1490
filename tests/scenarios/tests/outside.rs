//! What is written outside the workspace works with it.

use std::path::Path;
use std::process::Command;

/// Builds `examples/custom-transport` as its author would, and runs its tests.
#[test]
fn somebody_elses_transport_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/custom-transport");
    // Beside this build, so that what both need is compiled once.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target folder");
    let output = Command::new(env!("CARGO"))
        .args(["test", "--locked"])
        .env("CARGO_TARGET_DIR", target)
        .current_dir(folder)
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("tcp_conforms ... ok") && said.contains("nodes_talk_over_tcp ... ok"), "{said}");
}
