//! Tells the hub's source that it is compiled for the model checker: for this package only, so that nothing else of the
//! workspace is built anew for it.

fn main() {
    println!("cargo::rustc-cfg=shuttle");
    println!("cargo::rerun-if-changed=build.rs");
}
