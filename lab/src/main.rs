//! The `selvedge-lab` program: everything is in the library.

fn main() -> std::process::ExitCode {
    selvedge_lab::cli::main()
}
