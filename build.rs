//! Names the one condition that most of the crate stands under: `cfg(sampling)`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(sampling)");
    println!("cargo::rustc-check-cfg=cfg(pollscope_unsupported)");
    let target = |key: &str| std::env::var(format!("CARGO_CFG_{key}")).unwrap_or_default();
    let supported =
        target("TARGET_OS") == "linux" && ["x86_64", "aarch64"].contains(&&*target("TARGET_ARCH"));
    // `--cfg pollscope_unsupported` builds on Linux what other systems get.
    if supported && std::env::var_os("CARGO_CFG_POLLSCOPE_UNSUPPORTED").is_none() {
        println!("cargo::rustc-cfg=sampling");
    }
}
