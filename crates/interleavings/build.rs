//! Sets `cfg(shuttle)`, which tells the hub's source that it is compiled for the model checker. It applies to this package
//! only, so no other package has to be built again.

fn main() {
    println!("cargo::rustc-cfg=shuttle");
    println!("cargo::rerun-if-changed=build.rs");
}
