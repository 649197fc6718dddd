//! Tells the linker what `src/kafka/leader_discovery.rs` mends in librdkafka.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(fuzzing)");
    // Other linkers do not know `--wrap`; Millrace is run on Linux.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|name| name == "linux") {
        for name in ["rd_kafkap_leader_discovery_set_topic", "rd_kafkap_leader_discovery_set_CurrentLeader"] {
            println!("cargo::rustc-link-arg=-Wl,--wrap={name}");
        }
    }
}
